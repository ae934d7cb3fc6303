"""Resolve the parts of mixtures: entries of the same file."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from data_manager.dataset_types import DatasetConfig
from yaml_config.check import advice
from yaml_config.errors import Problem
from yaml_config.node import Node, dotted
from yaml_config.strict_model import Location, Violation


@runtime_checkable
class HasParts(Protocol):
    """Config that names other entries in `datasets` and holds their configs in `entries`."""

    datasets: Any
    entries: Any

    def part_violations(self, known: Any) -> Any:
        """Check the parts, given the configs of all entries by name."""
        ...


def with_parts(configs: Sequence[DatasetConfig], section: Node) -> tuple[list[DatasetConfig], list[Problem]]:
    """Fill in the parts of each mixture in a section `datasets`; return the configs and the problems of parts.

    A mixture is skipped if the entry of one of its parts has problems.
    """
    known = {config.name: config for config in configs}
    nodes = section.value if isinstance(section.value, list) else []
    entries = {_name(entry): (index, entry) for index, entry in reversed(list(enumerate(nodes)))}
    found, problems = [], []
    for config in configs:
        if isinstance(config, HasParts) and all(name in known or name not in entries for name in config.datasets):
            index, entry = entries[config.name]
            problems += [_problem(violation, entry, index) for violation in config.part_violations(known)]
            parts = tuple(known[name] for name in config.datasets if name in known)
            config = config.model_copy(update={"entries": parts})
        found.append(config)
    return found, problems


def _name(entry: Node) -> object:
    name = entry.child("name")
    return name.value if name is not None and isinstance(name.value, str) else None


def _problem(violation: Violation, entry: Node, index: int) -> Problem:
    where: Location = ("datasets", index, *violation.at)
    node = entry.at(violation.at) or entry
    hint = f"; {advice(violation.suggestion)}" if violation.suggestion else ""
    place = node.key_place or node.place
    return Problem(place, dotted(where), violation.code, violation.message + hint, violation.suggestion)
