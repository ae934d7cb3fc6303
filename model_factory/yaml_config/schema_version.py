"""Format version of every file that the program writes and reads back.

A file without a version reads as version 1. A later version is refused, since its meaning may have changed. A change of
format raises the number here, and older files are migrated when they are read.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.node import Node

SCHEMA_VERSION = 1


KEY = "schema_version"


_REMEDY = "update it (pip install --upgrade model-factory), or use the version that wrote the file"


class SchemaVersionError(ValueError):
    """File of a later version, or with an invalid version."""


def add_version(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file with its version first."""
    return {KEY: SCHEMA_VERSION, **content}


def remove_version(content: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """Return the content of a file without its version; raises SchemaVersionError for an unsupported version."""
    rest = dict(content)
    if message := describe_version_mismatch(rest.pop(KEY, 1)):
        raise SchemaVersionError(f"{path}: {message}")
    return rest


def describe_version_mismatch(version: object) -> str | None:
    """Return the message for an unsupported version, None for a supported one."""
    if isinstance(version, int) and not isinstance(version, bool) and 1 <= version <= SCHEMA_VERSION:
        return None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"{KEY} is {version}, and this program reads up to {SCHEMA_VERSION}; {_REMEDY}"
    return f"{KEY} is {version!r}, and must be a whole number from 1 to {SCHEMA_VERSION}"


def remove_version_from_tree(root: Node) -> tuple[Node, list[Problem]]:
    """Return a configuration without its version, and the problem of an unsupported version."""
    node = root.child(KEY)
    if node is None:
        return root, []
    message = describe_version_mismatch(node.value)
    problems = [Problem(node.report_place, KEY, KEY, message, str(SCHEMA_VERSION))] if message else []
    return replace(root.without(KEY), place=root.place), problems


# Parse JSON of untrusted files.


def parse_json(text: str, make_object: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON; raise ValueError if it is invalid or nested too deeply.

    Arguments:
        make_object: function that makes an object from its keys and values; by default `dict`.
    """
    try:
        return json.loads(text, object_pairs_hook=make_object)
    except RecursionError:
        raise ValueError("nested too deep") from None
