"""Settings for features and loading of a speech entry; `global_config` can hold defaults for all entries."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from model_factory.yaml_config.strict_model import StrictModel, Violation

FeatureType = Literal["fbank", "mfcc", "spectrogram"]
Storage = Literal["on_the_fly", "lilcom_chunky", "numpy"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

_PARAMETERS: dict[str, dict[str, Any]] = {
    "fbank": {"num_mel_bins": 80, "low_freq": 20.0, "high_freq": -400.0},
    "mfcc": {"num_mel_bins": 23, "num_ceps": 13, "low_freq": 20.0, "high_freq": -400.0},
    "spectrogram": {},
}
"""Type-specific parameters with their defaults."""


def has_parameter(feature_type: object, key: str) -> bool:
    """Return True if features of this type have the parameter `key`; an unknown type has all."""
    own = _PARAMETERS.get(str(feature_type))
    return own is None or key in own or not any(key in others for others in _PARAMETERS.values())


_TYPE_DEFAULT: Any = Field(default=None, validate_default=True)


class FeaturesConfig(StrictModel):
    """Kaldi-compatible frames, computed per batch, or once and stored below output_dir."""

    type: FeatureType = "fbank"
    """fbank (log mel energies), mfcc (cepstral coefficients) or spectrogram (log power spectrum)."""
    num_mel_bins: Annotated[int, Field(gt=0, le=1024)] | None = _TYPE_DEFAULT
    """Number of mel bins, for fbank the frame width; default 80 for fbank and 23 for mfcc. [bins]"""
    num_ceps: Annotated[int, Field(gt=0, le=1024)] | None = _TYPE_DEFAULT
    """Number of mfcc coefficients, the frame width; default 13. [coefficients]"""
    low_freq: Annotated[float, Field(ge=0)] | None = _TYPE_DEFAULT
    """Lowest frequency of the mel bins in Hz; default 20. [Hz]"""
    high_freq: float | None = _TYPE_DEFAULT
    """Highest frequency of the mel bins in Hz; zero or less is relative to half the sampling rate; default
    -400. [Hz]"""
    frame_length: Annotated[float, Field(gt=0, le=1)] = 0.025
    """Length of a frame in seconds. [s]"""
    frame_shift: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Distance between the starts of consecutive frames in seconds. [s]"""
    dither: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Standard deviation of noise added to the samples, which lie in [-1, 1]; fixed per cut. [1]"""
    sampling_rate: Annotated[int, Field(ge=1000, le=384_000)] | None = None
    """Rate in Hz to which audio is resampled; if left out, the corpus must have a single rate. [Hz]"""
    channel: Annotated[int, Field(ge=0)] | Literal["mean", "each"] | None = None
    """Channel of recordings with several: its number, mean (their average) or each (a cut for each channel, with the
    segments of that channel); if left out, channels that differ are an error."""
    storage: Storage = "on_the_fly"
    """on_the_fly (computed per batch), lilcom_chunky (stored, slightly lossy compression) or numpy (stored exactly)."""

    @field_validator("num_mel_bins", "num_ceps", "low_freq", "high_freq", mode="before")
    @classmethod
    def _fill(cls, value: Any, info: ValidationInfo) -> Any:
        """Fill in the default of the feature type if no value is set."""
        own = _PARAMETERS.get(str(info.data.get("type")), {})
        return own.get(str(info.field_name)) if value is None else value

    def width(self, sampling_rate: int | None = None) -> int | None:
        """Return the frame width, a model's `input_dim`; None for a spectrogram if no sampling rate (Hz) is known."""
        if self.type == "spectrogram":
            rate = self.sampling_rate or sampling_rate
            # Kaldi pads the Fourier transform to the next power of two
            return None if rate is None else (1 << (int(self.frame_length * rate) - 1).bit_length()) // 2 + 1
        return self.num_ceps if self.type == "mfcc" else self.num_mel_bins

    def violations(self) -> Iterator[Violation]:
        """Check that each parameter is valid for the type and that they are consistent."""
        for key in ("num_mel_bins", "num_ceps", "low_freq", "high_freq"):
            if getattr(self, key) is not None and not has_parameter(self.type, key):
                owners = " or ".join(kind for kind, own in _PARAMETERS.items() if key in own)
                hint = f"leave it out, or type: {owners}"
                yield Violation(f"{self.type} features have no {key}", (key,), (("type",),), hint)
        if self.num_ceps is not None and self.num_mel_bins is not None and self.num_ceps > self.num_mel_bins:
            message = f"{self.num_ceps} coefficients cannot be computed from {self.num_mel_bins} mel bins"
            if "num_ceps" in self.model_fields_set:
                yield Violation(message, ("num_ceps",), (("num_mel_bins",),), f"at most {self.num_mel_bins}")
            else:
                yield Violation(message, ("num_mel_bins",), (("type",),), f"at least {self.num_ceps}")
        if self.frame_shift > self.frame_length:
            message = f"frames of {self.frame_length} s every {self.frame_shift} s skip audio between them"
            yield Violation(message, ("frame_shift",), (("frame_length",),), f"at most {self.frame_length}")
        yield from self._frequency_violations()

    def _frequency_violations(self) -> Iterator[Violation]:
        """Check that the mel bins lie between 0 and half the sampling rate, if it is known."""
        low, high = self.low_freq, self.high_freq
        if low is None or high is None:
            return
        if self.sampling_rate is not None:
            half = self.sampling_rate / 2
            top = high if high > 0 else half + high
            if not low < top <= half:
                message = f"mel bins from {low:g} to {top:g} Hz do not lie below half the sampling rate, {half:g} Hz"
                yield Violation(message, ("high_freq",), (("low_freq",), ("sampling_rate",)))
        elif 0 < high <= low:
            yield Violation(f"high_freq {high:g} Hz is not above low_freq {low:g} Hz", ("high_freq",), (("low_freq",),))


class LoadingConfig(StrictModel):
    """Settings for batching cuts."""

    max_duration: Seconds | None = None
    """Maximum seconds of audio in a batch, including padding; cuts are bucketed by length (lhotse's
    `DynamicBucketingSampler`). If left out, a batch has `batch_size` cuts. [s]"""
    num_buckets: Annotated[int, Field(ge=1, le=1000)] = 10
    """Number of length buckets when max_duration is set. [buckets]"""
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """DataLoader worker processes; 0 loads in the training process. [processes]"""
    speakers: bool = False
    """Add diarization targets to a batch: `speakers`, `segments` in seconds and `speaker_activity`, bool [B, T, S]."""
    bad_audio: Literal["error", "drop"] = "error"
    """Unreadable audio files: error stops the run at the first one; drop reads every file once when the corpus is
    prepared, skips the unreadable ones and lists them."""
