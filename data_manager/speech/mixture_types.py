"""Config type of a speech mixture, which draws cuts from other entries by weight; imports nothing heavy."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_manager.dataset_types import DatasetConfig
from data_manager.speech.types import SpeechConfig, SpeechCorpusConfig
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import Violation


def _at_least_two(value: dict[str, float]) -> dict[str, float]:
    if len(value) < 2:
        raise ValueError("must have at least two entries, such as {librispeech: 3, timit: 1}")
    return value


Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], AfterValidator(_at_least_two)]


class SpeechMixtureConfig(SpeechConfig):
    """Cuts of other entries, interleaved by weight. The mixture's features, loading and tokenizer are used.

    Weights apply to splits whose names begin with `train`; in other splits every cut comes once.
    """

    source: Literal["speech_mixture"] = "speech_mixture"
    datasets: Weights
    """Names of other entries and their weights, `{librispeech: 3, timit: 1}`: three of four cuts come
    from librispeech. [1]"""
    splits: dict[str, dict[str, list[str]]] | None = None
    """Splits of the mixture and the splits of the entries that they mix: `{train: {librispeech: [train-clean-5],
    timit: [TRAIN]}}`; by default, splits of the same name are mixed."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed. [1]"""
    stop: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """Cuts in an epoch: first_exhausted, as many as the weights allow without repetition (the rest is skipped and
    counted); all_exhausted, each cut at least once (cuts of small entries are repeated)."""

    @property
    def part_names(self) -> list[str]:
        """Names of the mixed entries, and of those with noise and impulse responses."""
        return list(dict.fromkeys([*self.datasets, *super().part_names]))

    def violations(self) -> Iterator[Violation]:
        """Check that splits refer to mixed entries, and that parts are given for all names."""
        yield from super().violations()
        for split, parts in (self.splits or {}).items():
            for name in parts:
                if name not in self.datasets:
                    near = closest(name, list(self.datasets))
                    hint = f"did you mean {near!r}?" if near else f"the mixture has {', '.join(self.datasets)}"
                    yield Violation(
                        f"{name!r} is not part of the mixture", ("splits", split, name), (("datasets",),), hint
                    )

    def part_violations(self, known: Mapping[str, DatasetConfig]) -> Iterator[Violation]:
        """Check the parts, given the configs of all entries by name."""
        yield from super().part_violations(known)
        for name in self.datasets:
            yield from self._corpus_violations(known, name, ("datasets", name))
            if getattr(known.get(name), "augmentation", None) is not None:
                message = f"{name!r} has an augmentation, and a mixture uses its own"
                yield Violation(message, ("datasets", name), (), "write augmentation into the mixture")

    def parts(self) -> list[SpeechCorpusConfig]:
        """Return the entries in the order of `datasets`, with the mixture's features and loading settings."""
        own = {"features": self.features, "loading": self.loading, "tokenizer": None}
        known = {part.name: part for part in self.entries if isinstance(part, SpeechCorpusConfig)}
        return [known[name].model_copy(update=own) for name in self.datasets]
