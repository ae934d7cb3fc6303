"""Look up the type of a mapping in a registry by one of its keys, and report missing sections."""

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.registry import Registry, UnknownNameError, closest
from model_factory.yaml_config.strict_model import Location

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Choice(Generic[Entry]):
    """Result of looking up a tag: name and entry (None if unknown), problems, and the mapping without its tag."""

    name: str | None
    entry: Entry | None
    problems: list[Problem]
    body: Node


def choose(
    node: Node, key: str, registry: Registry[Entry], path: Location, default: str | None = None
) -> Choice[Entry]:
    """Look up the value of `key` in a registry; a near miss is a problem, and its entry is used for further checks."""
    tag, body, where = node.child(key), node.without(key), dotted((*path, key))
    if tag is None and default is not None:
        return Choice(default, registry.get(default), [], body)
    if tag is None:
        return _choose_misspelt(node, key, registry, path)
    if not isinstance(tag.value, str):
        message = f"must be one of {', '.join(registry.names())}; got {tag.kind}"
        return Choice(None, None, [Problem(tag.report_place, where, "type", message)], body)
    try:
        return Choice(tag.value, registry.get(tag.value), [], body)
    except UnknownNameError as error:
        near = error.suggestion
        problem = Problem(tag.place, where, "choice", str(error), near)
        return Choice(near, registry.get(near) if near else None, [problem], body)


def _choose_misspelt(node: Node, key: str, registry: Registry[Entry], path: Location) -> Choice[Entry]:
    """Take the key nearest to a missing tag, or report the missing key."""
    near = closest(key, list(node.entries))
    if near is None:
        message = f"missing key {key!r}, one of {', '.join(registry.names())}"
        return Choice(None, None, [Problem(node.report_place, dotted((*path, key)), "missing_key", message)], node)
    wrong = node.entries[near]
    message = f"unknown key {near!r}; did you mean {key!r}?"
    problem = Problem(wrong.key_place or wrong.place, dotted((*path, near)), "unknown_key", message, key)
    found = choose(replace(node, value={**node.without(near).entries, key: wrong}), key, registry, path)
    return replace(found, problems=[problem, *found.problems])


def missing_section(root: Node, name: str) -> Problem:
    """Return the problem of a missing section, or of a key that is near its name."""
    near = closest(name, list(root.entries))
    if near is None:
        return Problem(root.place, name, "missing_key", f"missing section {name!r}")
    wrong = root.entries[near]
    message = f"unknown section {near!r}; did you mean {name!r}?"
    return Problem(wrong.key_place or wrong.place, near, "unknown_key", message, name)
