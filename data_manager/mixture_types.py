"""Type of an entry of `datasets` that draws from other entries by weight; nothing heavy is imported."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SerializeAsAny
from pydantic.json_schema import SkipJsonSchema

from data_manager.dataset_types import DatasetConfig, not_empty
from data_manager.text_types import TokensConfig
from yaml_config.registry import closest
from yaml_config.strict_model import Violation

Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], AfterValidator(not_empty)]


class MixtureDatasetConfig(TokensConfig):
    """Rows of other entries, interleaved by weight. Their text is tokenised by the mixture's own tokenizer.

    A split is drawn from those of its parts that have it.
    """

    source: Literal["mixture"] = "mixture"
    datasets: Weights
    """Names of other entries to their weights, `{a: 0.7, b: 0.3}`: seven rows of ten come from a. [1]"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draw. [1]"""
    stop: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """Where an epoch ends: with the first part that has no more rows (the rest of the others is left for no one), or
    when each row of each part has come at least once (those of small parts come again)."""
    entries: SkipJsonSchema[tuple[SerializeAsAny[DatasetConfig], ...]] = Field(default=(), exclude=True)
    """Configs of the parts; read from a file, they are the entries of these names."""

    @property
    def is_paired(self) -> bool:
        """True where the parts are pairs."""
        return any(isinstance(part, TokensConfig) and part.is_paired for part in self.entries)

    def violations(self) -> Iterator[Violation]:
        """Parts that are there have the right names and are all of one kind."""
        yield from super().violations()
        if self.entries:
            yield from self.part_violations({part.name: part for part in self.entries})

    def part_violations(self, known: Mapping[str, DatasetConfig]) -> Iterator[Violation]:
        """What is wrong with the parts, the configs of all entries being known by their names."""
        found: list[TokensConfig] = []
        for name in self.datasets:
            part = known.get(name)
            if name == self.name or isinstance(part, MixtureDatasetConfig):
                yield Violation(f"{name!r} is a mixture, and a mixture is made of other data", ("datasets", name))
            elif part is None:
                others = [other for other in known if other != self.name]
                yield Violation(f"no other entry has the name {name!r}", ("datasets", name), (), _known(name, others))
            elif not isinstance(part, TokensConfig):
                message = f"{name!r} is of source {part.source}, and a mixture is made of text"
                yield Violation(message, ("datasets", name), (), "speech is mixed by source: speech_mixture")
            else:
                found.append(part)
        yield from self._pair_violations(found)

    def _pair_violations(self, parts: list[TokensConfig]) -> Iterator[Violation]:
        """All parts are pairs, and then each is a row, or none is."""
        odd = next((part for part in parts if part.is_paired != parts[0].is_paired), None)
        if odd is not None:
            message = f"{odd.name!r} and {parts[0].name!r} do not mix: one has pairs, the other plain text"
            yield Violation(message, ("datasets", odd.name), (("datasets", parts[0].name),))
        elif parts and parts[0].is_paired and self.rows not in (None, "whole"):
            yield Violation(f"pairs are never {self.rows}: each is a row", ("rows",), (), "leave it out")


def _known(name: str, others: list[str]) -> str:
    near = closest(name, others)
    return f"did you mean {near!r}?" if near else f"there are {', '.join(others)}" if others else "there is none"
