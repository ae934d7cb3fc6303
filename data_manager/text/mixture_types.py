"""Config type of a weighted mixture of data sets; nothing heavy is imported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, Field, SerializeAsAny
from pydantic.json_schema import SkipJsonSchema

from data_manager.dataset_types import DatasetConfig, not_empty
from data_manager.row_types import Layout, TokensConfig
from model_factory.yaml_config.check import advice
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import Location, Violation

Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], AfterValidator(not_empty)]


class MixtureDatasetConfig(TokensConfig):
    """Rows of other entries, interleaved by weight and tokenised by the tokenizer of the mixture.

    A split is drawn from the parts that have this split.
    """

    source: Literal["mixture"] = "mixture"
    datasets: Weights
    """Names of other entries to their weights, `{a: 0.7, b: 0.3}`: seven rows of ten come from a. [1]"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draw. [1]"""
    stop: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """End of an epoch: when the first part has no more rows (the remaining rows of others are not used), or when each row
    of each part has occurred at least once (rows of small parts repeat)."""
    entries: SkipJsonSchema[tuple[SerializeAsAny[DatasetConfig], ...]] = Field(default=(), exclude=True)
    """Configs of the parts; in a file, the entries with these names."""

    @property
    def part_names(self) -> list[str]:
        """Names of the mixed entries."""
        return list(self.datasets)

    @property
    def is_paired(self) -> bool:
        """True if the parts are pairs."""
        return any(isinstance(part, TokensConfig) and part.is_paired for part in self.entries)

    @property
    def has_responses(self) -> bool:
        """True if the rows of the parts name the responses in them."""
        parts = any(isinstance(part, TokensConfig) and part.has_responses for part in self.entries)
        return super().has_responses or parts

    @property
    def layout(self) -> Layout:
        """Layout of rows; a document with responses is one row."""
        return "whole" if self.has_responses else super().layout

    def violations(self) -> Iterator[Violation]:
        """Check names and kinds of the parts."""
        yield from super().violations()
        if self.entries:
            yield from self.part_violations({part.name: part for part in self.entries})

    def part_violations(self, known: Mapping[str, DatasetConfig]) -> Iterator[Violation]:
        """Check the parts, given the configs of all entries by name."""
        found: list[TokensConfig] = []
        for name in self.datasets:
            part = known.get(name)
            if name == self.name or isinstance(part, MixtureDatasetConfig):
                yield Violation(f"{name!r} is a mixture; mixtures cannot be nested", ("datasets", name))
            elif part is None:
                others = [other for other in known if other != self.name]
                yield Violation(
                    f"no other entry is named {name!r}", ("datasets", name), (), _suggest_entry(name, others)
                )
            elif not isinstance(part, TokensConfig):
                message = f"{name!r} has source {part.source}; a mixture needs text"
                yield Violation(message, ("datasets", name), (), "mix speech with source: speech_mixture")
            elif part.infill is not None:
                message = f"{name!r} has infill, and the rows of a mixture are made by the mixture's own keys"
                yield Violation(message, ("datasets", name), (), "set infill in the mixture, and not in its parts")
            else:
                found.append(part)
        yield from self._pair_violations(found)

    def _pair_violations(self, parts: list[TokensConfig]) -> Iterator[Violation]:
        """Check that all parts are pairs or none is, that all have responses or none has, and that pairs are whole rows."""
        odd = next((part for part in parts if part.is_paired != parts[0].is_paired), None)
        if odd is not None:
            message = f"{odd.name!r} and {parts[0].name!r} cannot be mixed: one has pairs, the other plain text"
            yield Violation(message, ("datasets", odd.name), (("datasets", parts[0].name),))
        elif odd := next((part for part in parts if part.has_responses != parts[0].has_responses), None):
            message = f"{odd.name!r} and {parts[0].name!r} cannot be mixed: only one of them has responses"
            yield Violation(message, ("datasets", odd.name), (("datasets", parts[0].name),))
        elif self.infill is not None and parts and parts[0].has_responses:
            message = f"{parts[0].name!r} has responses to write, and the mixture holes to fill"
            yield Violation(message, ("infill",), (("datasets", parts[0].name),), "remove it")
        elif parts and parts[0].is_paired and self.rows not in (None, "whole"):
            yield Violation(f"pairs cannot be {self.rows}: each pair is one row", ("rows",), (), "remove it")


def _suggest_entry(name: str, others: list[str]) -> str:
    near = closest(name, others)
    return (
        f"did you mean {near!r}?" if near else f"known: {', '.join(others)}" if others else "there are no other entries"
    )


# Resolve the parts of mixtures: entries of the same file.


@runtime_checkable
class HasParts(Protocol):
    """Config that names other entries in `part_names` and holds their configs in `entries`."""

    entries: Any

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the other entries."""
        ...

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
        names = config.part_names if isinstance(config, HasParts) else ()
        if names and isinstance(config, HasParts) and all(name in known or name not in entries for name in names):
            index, entry = entries[config.name]
            problems += [_problem(violation, entry, index) for violation in config.part_violations(known)]
            parts = tuple(known[name] for name in names if name in known)
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
