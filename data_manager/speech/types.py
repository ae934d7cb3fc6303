"""Config types of a speech corpus in `datasets`; imports nothing heavy."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, model_validator
from pydantic.json_schema import SkipJsonSchema

from data_manager.dataset_types import DatasetConfig
from data_manager.shared_defaults import fill_shared_settings
from data_manager.speech.augmentation_types import AugmentationConfig, FilterConfig, Splits, TextStep
from data_manager.speech.recipes import recipe_violations
from data_manager.speech_settings import FeaturesConfig, LoadingConfig, Seconds
from data_manager.tokenizers.registry import DEFAULT_TOKENIZER, TOKENIZERS
from model_factory.yaml_config.from_registry import FromRegistry
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import StrictModel, Violation


class WindowsConfig(StrictModel):
    """Settings for cutting recordings into windows."""

    type: Literal["fixed", "supervisions"] = "fixed"
    """fixed: windows of `seconds`, the last one shorter; supervisions: one window per transcribed segment."""
    seconds: Seconds | None = None
    """Length of a fixed window. [s]"""
    hop: Seconds | None = None
    """Distance between the starts of consecutive fixed windows; default `seconds`. [s]"""
    tail: Literal["keep", "drop", "join"] = "keep"
    """A fixed window at the end that is shorter than min_tail: keep it, drop and count it, or join it to the last one
    before."""
    min_tail: Seconds | None = None
    """Length from which a window at the end is kept as it is; default `seconds`. [s]"""

    def violations(self) -> Iterator[Violation]:
        """Check that fixed windows, and only these, have a length."""
        if self.type == "fixed" and self.seconds is None:
            yield Violation("fixed windows need their length in seconds", ("seconds",), (("type",),))
        for key in ("seconds", "hop", "min_tail"):
            if self.type == "supervisions" and getattr(self, key) is not None:
                message = f"windows of type supervisions have the length of the supervisions, and take no {key}"
                yield Violation(message, (key,), (("type",),), "leave it out, or type: fixed")
        if self.seconds is not None and self.hop is not None and self.hop > self.seconds:
            message = f"windows of {self.seconds:g} s every {self.hop:g} s skip audio between them"
            yield Violation(message, ("hop",), (("seconds",),), f"at most {self.seconds:g}")
        if self.type == "supervisions" and self.tail != "keep":
            message = f"windows of type supervisions have no tail to {self.tail}"
            yield Violation(message, ("tail",), (("type",),), "leave it out, or type: fixed")
        if self.seconds is not None and self.min_tail is not None and self.min_tail > self.seconds:
            message = (
                f"no window is longer than {self.seconds:g} s, so all are shorter than min_tail {self.min_tail:g} s"
            )
            yield Violation(message, ("min_tail",), (("seconds",),), f"at most {self.seconds:g}")
        if self.min_tail is not None and self.tail == "keep" and self.type == "fixed":
            yield Violation("tail: keep takes no min_tail", ("min_tail",), (("tail",),), "tail: drop or tail: join")


def _check_factors(value: list[float]) -> list[float]:
    if not value:
        raise ValueError("must not be empty")
    if len(set(value)) != len(value):
        raise ValueError("must not contain a factor twice")
    if 1.0 in value:
        raise ValueError("must not contain 1.0: the original audio is always included")
    return value


class SpeedConfig(StrictModel):
    """Settings for speed perturbation: faster or slower copies, added to the original cuts."""

    factors: Annotated[list[Annotated[float, Field(ge=0.25, le=4)]], AfterValidator(_check_factors)] = [0.9, 1.1]
    """Speed factors: 1.1 is 10 % faster and higher in pitch. [1]"""
    splits: Splits = None
    """Splits to copy; default: splits whose names begin with `train`."""


class SubsetConfig(StrictModel):
    """Settings for keeping only the first cuts of each split, before speed perturbation."""

    first: Annotated[int, Field(gt=0)] | None = None
    """Maximum number of cuts. [cuts]"""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Maximum seconds of audio; at least one cut is kept. [s]"""
    splits: Splits = None
    """Splits to shorten; default: all."""

    def violations(self) -> Iterator[Violation]:
        """Check that a limit is set."""
        if self.first is None and self.seconds is None:
            yield Violation("a subset needs first (cuts) or seconds", ("first",), (), "first: 100", "missing_key")


class SpeechConfig(DatasetConfig):
    """Settings for batching the cuts of one or several corpora."""

    features: FeaturesConfig = FeaturesConfig()
    """Features of a batch; missing keys are taken from global_config.features."""
    loading: LoadingConfig = LoadingConfig()
    """Batching; missing keys are taken from global_config.loading."""
    tokenizer: Annotated[StrictModel | None, FromRegistry(TOKENIZERS, default=DEFAULT_TOKENIZER, or_none=True)] = None
    """Tokenizer that makes `labels` from transcripts; without it batches have only the text."""
    augmentation: AugmentationConfig | None = None
    """Random changes of the audio during training: noise, rooms, volume, tempo."""
    entries: SkipJsonSchema[tuple[SerializeAsAny[DatasetConfig], ...]] = Field(default=(), exclude=True)
    """Configs of the entries in `part_names`; in a config file, the entries with these names."""

    @property
    def part_names(self) -> list[str]:
        """Names of the other entries that this one reads: those with noise and impulse responses."""
        return list(dict.fromkeys(self.augmentation.sources.values())) if self.augmentation is not None else []

    def violations(self) -> Iterator[Violation]:
        """Check that augmentation finds audio to change, and its entries if they are given."""
        yield from super().violations()
        if self.augmentation is not None and self.features.storage != "on_the_fly":
            message = f"augmentation changes audio, and features are stored before it ({self.features.storage})"
            yield Violation(message, ("augmentation",), (("features", "storage"),), "storage: on_the_fly")
        if self.entries:
            yield from self.part_violations({part.name: part for part in self.entries})

    def part_violations(self, known: Mapping[str, DatasetConfig]) -> Iterator[Violation]:
        """Check the entries with noise and impulse responses, given the configs of all entries by name."""
        sources = self.augmentation.sources if self.augmentation is not None else {}
        for kind, name in sources.items():
            yield from self._corpus_violations(known, name, ("augmentation", kind, "dataset"))

    def _corpus_violations(
        self, known: Mapping[str, DatasetConfig], name: str, at: tuple[str, ...]
    ) -> Iterator[Violation]:
        """Check that `name`, written at `at`, is another entry, and one speech corpus."""
        part = known.get(name)
        if part is None or name == self.name:
            others = [other for other in known if other != self.name]
            near = closest(name, others)
            hint = (
                f"did you mean {near!r}?" if near else f"the other entries are {', '.join(others)}" if others else None
            )
            yield Violation(f"no other entry has the name {name!r}", at, (), hint)
        elif not isinstance(part, SpeechCorpusConfig):
            yield Violation(f"{name!r} has source {part.source}, which is not one speech corpus", at)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Fill in the settings of global_config, as for a config read from a file."""
        return fill_shared_settings(values) if isinstance(values, dict) else values


class SpeechCorpusConfig(SpeechConfig):
    """Keys of every speech corpus, custom sources included: how recordings become cuts."""

    windows: WindowsConfig | None = None
    """Cut the recordings into windows."""
    text: Annotated[list[TextStep], Field(min_length=1)] | None = None
    """Steps that change transcripts, in order: lower, upper, remove_punctuation (all but apostrophes inside words),
    collapse_spaces, or `{pattern: "[0-9]+", replacement: "#"}`. Cuts whose transcript becomes empty are left out and
    counted."""
    filter: FilterConfig | None = None
    """Leave out cuts by their duration and by characters a second."""
    subset: SubsetConfig | None = None
    """Keep only the first cuts of each split."""
    speed_perturbation: SpeedConfig | None = None
    """Add copies with perturbed speed."""


class LhotseDatasetConfig(SpeechCorpusConfig):
    """A speech corpus with a lhotse recipe, such as librispeech, timit or yesno."""

    source: Literal["lhotse"] = "lhotse"
    download_params: dict[str, Any] = {}
    """Parameters of lhotse's `download_NAME`, for example `{dataset_parts: mini_librispeech}`."""
    process_params: dict[str, Any] = {}
    """Parameters of lhotse's `prepare_NAME`, such as `{dataset_parts: [dev-clean]}` or `{num_phones: 48}`."""
    on_invalid: Literal["error", "skip"] = "error"
    """An invalid line of a transcript or RTTM file: stop the preparation, or skip, count and report it."""

    def violations(self) -> Iterator[Violation]:
        """Check the parameters against the recipe: unknown ones and missing required ones."""
        yield from super().violations()
        yield from recipe_violations(self.name, self.download_params, self.process_params)
