"""The version of the form of every file that the program writes and reads back.

A file without one is of before there were versions, and reads as version 1. One of a later version is refused: what it
says may mean something else by then. A change of a form raises the number here and migrates older ones where they are read.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yaml_config.errors import Problem
from yaml_config.node import Node

SCHEMA_VERSION = 1
KEY = "schema_version"
_REMEDY = "update it (pip install --upgrade model-factory), or use the version that wrote the file"


class SchemaVersionError(ValueError):
    """A file of a later version, or with a version that is no number."""


def stamped(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file with its version in front."""
    return {KEY: SCHEMA_VERSION, **content}


def unstamped(content: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """The content of a file without its version; raises SchemaVersionError where this program cannot know it."""
    rest = dict(content)
    if message := misfit(rest.pop(KEY, 1)):
        raise SchemaVersionError(f"{path}: {message}")
    return rest


def misfit(version: object) -> str | None:
    """What is wrong with a version, None for one that this program reads."""
    if isinstance(version, int) and not isinstance(version, bool) and 1 <= version <= SCHEMA_VERSION:
        return None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"{KEY} is {version}, and this program reads up to {SCHEMA_VERSION}; {_REMEDY}"
    return f"{KEY} is {version!r}, and must be a whole number from 1 to {SCHEMA_VERSION}"


def unstamped_root(root: Node) -> tuple[Node, list[Problem]]:
    """A configuration without its version, and what is wrong with that one."""
    node = root.child(KEY)
    if node is None:
        return root, []
    message = misfit(node.value)
    problems = [Problem(node.shown_at, KEY, KEY, message, str(SCHEMA_VERSION))] if message else []
    return replace(root.without(KEY), place=root.place), problems
