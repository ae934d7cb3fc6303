"""Config types of what is done to cuts: text normalisation, filters and augmentation; imports nothing heavy."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from data_manager.dataset_types import NotEmpty
from data_manager.speech_settings import Seconds
from model_factory.yaml_config.strict_model import StrictModel, Violation

Splits = Annotated[list[str], Field(min_length=1)] | None
Probability = Annotated[float, Field(gt=0, le=1)]


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return value


class Replacement(StrictModel):
    """A regular expression of Python, and the text that replaces each match."""

    pattern: Annotated[NotEmpty, AfterValidator(_check_pattern)]
    """Regular expression, for example `"\\\\[[a-z]+\\\\]"` for marks such as `[noise]`."""
    replacement: str = ""
    """Text in place of each match; `"\\\\1"` is the first group."""

    def violations(self) -> Iterator[Violation]:
        """Check that the groups of the replacement are in the pattern."""
        try:
            re.sub(self.pattern, self.replacement, "")
        except (re.error, IndexError) as error:
            yield Violation(
                f"the replacement does not fit the pattern: {error}", ("replacement",), (("pattern",),), "a group there"
            )


def _kind_of_step(value: Any) -> str | None:
    return "name" if isinstance(value, str) else "replacement" if isinstance(value, dict | Replacement) else None


TextStep = Annotated[
    Annotated[Literal["lower", "upper", "remove_punctuation", "collapse_spaces"], Tag("name")]
    | Annotated[Replacement, Tag("replacement")],
    Discriminator(
        _kind_of_step,
        custom_error_type="text_step",
        custom_error_message="must be lower, upper, remove_punctuation, collapse_spaces or {pattern: ..., replacement: ...}",
    ),
]


class FilterConfig(StrictModel):
    """Settings for leaving out cuts that are too short, too long, or whose transcript does not fit their length."""

    min_duration: Seconds | None = None
    """Shortest cut that is kept. [s]"""
    max_duration: Seconds | None = None
    """Longest cut that is kept. [s]"""
    min_characters_per_second: Annotated[float, Field(gt=0)] | None = None
    """Fewest characters of the transcript for each second of audio; cuts without a transcript are kept. [1/s]"""
    max_characters_per_second: Annotated[float, Field(gt=0)] | None = None
    """Most characters of the transcript for each second of audio. [1/s]"""
    splits: Splits = None
    """Splits to filter; default: splits whose names begin with `train`."""

    def violations(self) -> Iterator[Violation]:
        """Check that there is a limit, and that no upper limit is below its lower one."""
        limits = [name for name in type(self).model_fields if name != "splits"]
        if all(getattr(self, name) is None for name in limits):
            yield Violation("a filter needs a limit", ("max_duration",), (), "max_duration: 20", "missing_key")
        for what in ("duration", "characters_per_second"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and high < low:
                message = f"max_{what} {high:g} is below min_{what} {low:g}, so no cut is kept"
                yield Violation(message, (f"max_{what}",), ((f"min_{what}",),), f"at least {low:g}")


def _check_range(value: list[float]) -> list[float]:
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError("must be two numbers, the lowest and the highest, such as [0.9, 1.1]")
    return value


class NoiseConfig(StrictModel):
    """Settings for adding the recordings of another entry to a cut: a random part, repeated if it is shorter."""

    dataset: NotEmpty
    """Name of another speech entry of the file, such as musan."""
    splits: Splits = None
    """Splits of that entry, such as `[noise, music]`; default: all."""
    snr: Annotated[list[Annotated[float, Field(ge=-50, le=100)]], AfterValidator(_check_range)] = [5.0, 20.0]
    """Lowest and highest signal-to-noise ratio. [dB]"""
    probability: Probability = 0.5
    """Fraction of the cuts that get noise. [share]"""


class ReverbConfig(StrictModel):
    """Settings for room impulse responses, which make a cut sound as if it were recorded in a room."""

    dataset: NotEmpty
    """Name of another speech entry whose recordings are impulse responses, such as rir_noise."""
    splits: Splits = None
    """Splits of that entry, such as `[real_rir]`; default: all."""
    probability: Probability = 0.5
    """Fraction of the cuts that get one. [share]"""


class VolumeConfig(StrictModel):
    """Settings for louder and quieter copies."""

    range: Annotated[list[Annotated[float, Field(ge=0.001, le=1000)]], AfterValidator(_check_range)] = [0.5, 2.0]
    """Lowest and highest factor on the samples; its logarithm is uniform. [1]"""
    probability: Probability = 1.0
    """Fraction of the cuts that are changed. [share]"""


class TempoConfig(StrictModel):
    """Settings for speaking faster or slower at the same pitch."""

    range: Annotated[list[Annotated[float, Field(ge=0.5, le=2)]], AfterValidator(_check_range)] = [0.9, 1.1]
    """Lowest and highest factor: 1.1 is 10 % faster. [1]"""
    probability: Probability = 1.0
    """Fraction of the cuts that are changed. [share]"""


class AugmentationConfig(StrictModel):
    """Random changes of the audio on which a model is trained, anew in each epoch; evaluation has the original audio."""

    tempo: TempoConfig | None = None
    """Change the tempo."""
    reverb: ReverbConfig | None = None
    """Add the echo of a room."""
    volume: VolumeConfig | None = None
    """Change the volume."""
    noise: NoiseConfig | None = None
    """Add noise."""

    @property
    def sources(self) -> dict[str, str]:
        """The entry that each of noise and reverb takes recordings from, `{noise: musan}`."""
        parts = {"noise": self.noise, "reverb": self.reverb}
        return {kind: part.dataset for kind, part in parts.items() if part is not None}

    def violations(self) -> Iterator[Violation]:
        """Check that something is changed."""
        if all(getattr(self, name) is None for name in type(self).model_fields):
            yield Violation("augmentation changes nothing", ("noise",), (), "volume: {}", "missing_key")
