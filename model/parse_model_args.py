"""Read the `model` section of a file as a `ModelConfig`. As a command: `python -m model.parse_model_args --config F`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from model.model_types import ModelConfig
from model.registry import MODELS
from model.types import PerformerParams
from model_factory.yaml_config.check import Checked, check
from model_factory.yaml_config.choose import choose, missing_section
from model_factory.yaml_config.document import read_document
from model_factory.yaml_config.errors import ConfigError, ConfigValueError, Problem, escape_line, report_failure
from model_factory.yaml_config.exit_codes import GOOD
from model_factory.yaml_config.model_tree import fields_of
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.overrides import split_override
from model_factory.yaml_config.process import take_any_text
from model_factory.yaml_config.strict_model import StrictModel


class ModelHeader(StrictModel):
    """Keys of every `model` section besides those of its type."""

    name: str = Field(default="model", min_length=1)
    """Name of the model, for logs and folders."""


HEADER_KEYS = ("model_type", "name", "global_config")
_OTHER_SECTIONS = ("datasets", "training", "generation")


def parse_model_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ModelConfig:
    """Read the `model` section of a file; other sections are ignored.

    Raises ConfigError, which lists every problem of the section with its line.
    """
    document = read_document(path, overrides)
    section = document.root.child("model")
    if section is None:
        raise ConfigValueError([*document.problems, missing_section(document.root, "model")])
    config, problems = read_model_section(section)
    if problems or document.problems or config is None:
        raise ConfigValueError([*document.problems, *problems])
    return config


def read_model_section(section: Node) -> tuple[ModelConfig | None, list[Problem]]:
    """Return the `ModelConfig` of a `model` section (None if it has problems), and the problems."""
    if not section.entries:
        error = "is empty" if section.value in (None, {}) else f"must be a mapping; got {section.kind}"
        fix = "model_type: encoder"
        return None, [
            Problem(section.report_place, "model", "empty_section", f"section 'model' {error}; begin with {fix}", fix)
        ]
    choice = choose(section, "model_type", MODELS, ("model",))
    entry, problems = choice.entry, choice.problems
    if entry is None or choice.name is None:
        return None, problems
    known = {"name": section.entries["name"]} if "name" in section.entries else {}
    header = check(replace(section, value=known), ModelHeader, ("model",))
    body = choice.body.without("name")
    parts: tuple[str, ...] = getattr(entry.config_type, "parts", ())
    if parts:
        body, found = merge_global_config(body, parts)
        problems += found
    body, misplaced = _without_sections(body, entry.config_type)
    problems += misplaced
    header_keys = tuple(key for key in HEADER_KEYS if key not in section.entries and (parts or key != "global_config"))
    checked: Checked[Any] = check(body, entry.config_type, ("model",), header_keys)
    problems += [*header.problems, *checked.problems]
    if problems or checked.value is None or header.value is None:
        return None, problems
    return ModelConfig(model_type=choice.name, name=header.value.name, config=checked.value), []


def _without_sections(body: Node, config_type: type[StrictModel]) -> tuple[Node, list[Problem]]:
    """Return `body` without sections of the file that were indented into it, each of them a problem."""
    misplaced = [key for key in _OTHER_SECTIONS if key in body.entries and key not in fields_of(config_type)]
    problems = []
    for key in misplaced:
        message = f"{key!r} is not part of the model; write it beside 'model', without indentation"
        node = body.entries[key]
        problems.append(Problem(node.key_place or node.place, f"model.{key}", "unknown_key", message, key))
    return body.without(*misplaced), problems


def merge_global_config(body: Node, parts: Sequence[str]) -> tuple[Node, list[Problem]]:
    """Return `body` with `global_config` merged into each part as defaults, and the problems of `global_config`."""
    shared = body.child("global_config")
    if shared is None:
        return body, []
    path = ("model", "global_config")
    body = body.without("global_config")
    if not shared.entries:
        error = "is empty" if shared.value in (None, {}) else f"must be a mapping; got {shared.kind}"
        return body, [Problem(shared.report_place, "model.global_config", "empty_section", f"global_config {error}")]
    own = check(shared, PerformerParams, path)
    problems = [problem for problem in own.problems if problem.code not in ("missing_key", "relation")]
    wrong = {problem.path for problem in problems}
    defaults = {
        key: replace(node, origin=(*path, key))
        for key, node in shared.entries.items()
        if ".".join((*path, key)) not in wrong
    }
    for part in parts:
        child = body.child(part)
        if child is not None and isinstance(child.value, dict):
            merged = replace(child, value={**defaults, **child.value})
            body = replace(body, value={**body.entries, part: merged})
    return body, problems


def main(argv: Sequence[str] | None = None) -> int:
    """Check the model section of a file; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m model.parse_model_args", description="Check the section `model` of a file."
    )
    parser.add_argument("--config", metavar="F", required=True, help="the experiment's YAML file")
    parser.add_argument(
        "--set", metavar="K=V", action="append", default=[], dest="overrides", help="override a config value"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: ok, errors, config")
    args = parser.parse_args(argv)
    take_any_text()
    for option in args.overrides:
        try:
            split_override(option)
        except ValueError as error:
            parser.error(str(error))
    try:
        config = parse_model_config(args.config, args.overrides)
    except ConfigError as error:
        return report_failure(error, args.json)
    if args.json:
        section = {"model": config.to_section()}
        print(json.dumps({"ok": True, "errors": [], "config": section}, indent=2))
    else:
        print(escape_line(f"{args.config}: good: model {config.name!r} ({config.model_type})"))
    return GOOD


if __name__ == "__main__":
    sys.exit(main())
