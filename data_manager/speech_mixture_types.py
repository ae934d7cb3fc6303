"""Type of an entry of `datasets` that draws cuts from other entries by weight; nothing heavy is imported."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.json_schema import SkipJsonSchema

from data_manager.dataset_types import DatasetConfig
from data_manager.speech_types import LhotseDatasetConfig, SpeechConfig
from yaml_config.registry import closest
from yaml_config.strict_model import Violation


def _two(value: dict[str, float]) -> dict[str, float]:
    if len(value) < 2:
        raise ValueError("must have two entries at least, such as {librispeech: 3, timit: 1}")
    return value


Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], AfterValidator(_two)]


class SpeechMixtureConfig(SpeechConfig):
    """Cuts of other entries, interleaved by weight. Features, loading and tokenizer are the mixture's own.

    Weights hold in splits whose names begin with `train`; in others every cut comes once.
    """

    source: Literal["speech_mixture"] = "speech_mixture"
    datasets: Weights
    """Names of other entries to their weights, `{librispeech: 3, timit: 1}`: three cuts of four are
    of librispeech. [1]"""
    splits: dict[str, dict[str, list[str]]] | None = None
    """Splits of the mixture, each with those of the entries that go into it: `{train: {librispeech: [train-clean-5],
    timit: [TRAIN]}}`; where left out, splits of the same name are mixed."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draw. [1]"""
    stop: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """What a pass holds: first_exhausted, as many cuts as keep to the weights without one coming twice (the rest is left
    out and counted); all_exhausted, each cut at least once (those of small entries come again)."""
    entries: SkipJsonSchema[tuple[LhotseDatasetConfig, ...]] = Field(default=(), exclude=True)
    """Configs of the parts; read from a file, they are the entries of these names."""

    def violations(self) -> Iterator[Violation]:
        """Splits are of the entries that are mixed, and parts that are there have the right names."""
        yield from super().violations()
        for split, parts in (self.splits or {}).items():
            for name in parts:
                if name not in self.datasets:
                    near = closest(name, list(self.datasets))
                    hint = f"did you mean {near!r}?" if near else f"mixed are {', '.join(self.datasets)}"
                    yield Violation(f"{name!r} is not mixed", ("splits", split, name), (("datasets",),), hint)
        if self.entries:
            yield from self.part_violations({part.name: part for part in self.entries})

    def part_violations(self, known: Mapping[str, DatasetConfig]) -> Iterator[Violation]:
        """What is wrong with the parts, the configs of all entries being known by their names."""
        others = [name for name in known if name != self.name]
        for name in self.datasets:
            part = known.get(name)
            if part is None:
                near = closest(name, others)
                hint = f"did you mean {near!r}?" if near else f"there are {', '.join(others)}" if others else None
                yield Violation(f"no other entry has the name {name!r}", ("datasets", name), (), hint)
            elif not isinstance(part, LhotseDatasetConfig):
                message = f"{name!r} is of source {part.source}, and a mixture of speech is made of lhotse's corpora"
                yield Violation(message, ("datasets", name))

    def parts(self) -> list[LhotseDatasetConfig]:
        """The entries in the order of `datasets`, with the features and the loading of the mixture."""
        own = {"features": self.features, "loading": self.loading, "tokenizer": None}
        known = {part.name: part for part in self.entries}
        return [known[name].model_copy(update=own) for name in self.datasets]
