"""Types of an entry of `datasets` that is a speech corpus; nothing heavy is imported."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from data_manager.dataset_types import DatasetConfig
from data_manager.recipe_checks import recipe_violations
from data_manager.shared_defaults import with_shared_settings
from data_manager.speech_settings import FeaturesConfig, LoadingConfig, Seconds
from data_manager.tokenizer_registry import DEFAULT_TOKENIZER, TOKENIZERS
from yaml_config.strict_model import StrictModel, Violation
from yaml_config.tagged import FromRegistry


class WindowsConfig(StrictModel):
    """Recordings cut into shorter pieces."""

    type: Literal["fixed", "supervisions"] = "fixed"
    """fixed: windows of `seconds`, the last one shorter; supervisions: a piece for each transcribed segment."""
    seconds: Seconds | None = None
    """Length of a fixed window. [s]"""
    hop: Seconds | None = None
    """From the beginning of one fixed window to that of the next; `seconds` where left out. [s]"""

    def violations(self) -> Iterator[Violation]:
        """Fixed windows have a length, and only they."""
        if self.type == "fixed" and self.seconds is None:
            yield Violation("fixed windows need seconds, their length", ("seconds",), (("type",),))
        for key in ("seconds", "hop"):
            if self.type == "supervisions" and getattr(self, key) is not None:
                message = f"windows by supervisions are as long as these are, and have no {key}"
                yield Violation(message, (key,), (("type",),), "leave it out, or type: fixed")
        if self.seconds is not None and self.hop is not None and self.hop > self.seconds:
            message = f"windows of {self.seconds:g} s every {self.hop:g} s leave audio out between them"
            yield Violation(message, ("hop",), (("seconds",),), f"at most {self.seconds:g}")


def _factors(value: list[float]) -> list[float]:
    if not value:
        raise ValueError("must not be empty")
    if len(set(value)) != len(value):
        raise ValueError("must not hold a factor twice")
    if 1.0 in value:
        raise ValueError("must not hold 1.0, as the audio as it is always stays")
    return value


Splits = Annotated[list[str], Field(min_length=1)] | None


class SpeedConfig(StrictModel):
    """Copies of the cuts played faster or slower, besides the cuts as they are."""

    factors: Annotated[list[Annotated[float, Field(ge=0.25, le=4)]], AfterValidator(_factors)] = [0.9, 1.1]
    """Speeds: 1.1 is a tenth faster and higher. [1]"""
    splits: Splits = None
    """Splits to copy; those whose names begin with `train` where left out."""


class SubsetConfig(StrictModel):
    """The beginning of each split, before speed perturbation."""

    first: Annotated[int, Field(gt=0)] | None = None
    """At most so many cuts. [cuts]"""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """At most so many seconds of audio, and at least one cut. [s]"""
    splits: Splits = None
    """Splits to shorten; all where left out."""

    def violations(self) -> Iterator[Violation]:
        """There is something to limit by."""
        if self.first is None and self.seconds is None:
            yield Violation("a subset needs first (cuts) or seconds", ("first",), (), "first: 100", "missing_key")


class CorpusSettings(StrictModel):
    """What is done with one corpus, alone or in a mixture."""

    download_params: dict[str, Any] = {}
    """Parameters of lhotse's `download_NAME`, say `{dataset_parts: mini_librispeech}`."""
    process_params: dict[str, Any] = {}
    """Parameters of lhotse's `prepare_NAME`, say `{dataset_parts: [dev-clean]}` or `{num_phones: 48}`."""
    windows: WindowsConfig | None = None
    """Cut the recordings into pieces."""
    subset: SubsetConfig | None = None
    """Take the beginning of each split only."""
    speed_perturbation: SpeedConfig | None = None
    """Add copies at other speeds."""


class SpeechConfig(DatasetConfig):
    """How cuts, of one corpus or of several, become batches."""

    features: FeaturesConfig = FeaturesConfig()
    """Features of a batch; what is left out comes from global_config.features."""
    loading: LoadingConfig = LoadingConfig()
    """How batches are made; what is left out comes from global_config.loading."""
    tokenizer: Annotated[StrictModel | None, FromRegistry(TOKENIZERS, default=DEFAULT_TOKENIZER, or_none=True)] = None
    """How transcripts become `labels`; without it batches have their text alone."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """A config made in Python takes the settings of its global_config, as one read from a file does."""
        return with_shared_settings(values) if isinstance(values, dict) else values


class LhotseDatasetConfig(CorpusSettings, SpeechConfig):
    """A speech corpus that lhotse has a recipe for, such as librispeech, timit or yesno."""

    source: Literal["lhotse"] = "lhotse"

    def violations(self) -> Iterator[Violation]:
        """Each parameter is one that the recipe takes, and none that it needs is missing."""
        yield from super().violations()
        yield from recipe_violations(self.name, self.download_params, self.process_params)
