"""Settings of features and of loading: parts of a speech entry, and defaults for all of them in `global_config`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from yaml_config.strict_model import StrictModel, Violation

FeatureType = Literal["fbank", "mfcc", "spectrogram"]
Storage = Literal["on_the_fly", "lilcom_chunky", "numpy"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

_BY_TYPE: dict[str, dict[str, Any]] = {
    "fbank": {"num_mel_bins": 80, "low_freq": 20.0, "high_freq": -400.0},
    "mfcc": {"num_mel_bins": 23, "num_ceps": 13, "low_freq": 20.0, "high_freq": -400.0},
    "spectrogram": {},
}
"""Parameters that not every type takes, with their defaults."""


def takes(feature_type: object, key: str) -> bool:
    """Whether features of this type have the parameter `key`; an unknown type has every one."""
    own = _BY_TYPE.get(str(feature_type))
    return own is None or key in own or not any(key in others for others in _BY_TYPE.values())


_BY_ITS_TYPE: Any = Field(default=None, validate_default=True)


class FeaturesConfig(StrictModel):
    """Frames computed from audio, as Kaldi computes them: by batch, or once and stored below output_dir."""

    type: FeatureType = "fbank"
    """fbank (log energies of mel bins), mfcc (cepstral coefficients) or spectrogram (log power of every frequency)."""
    num_mel_bins: Annotated[int, Field(gt=0, le=1024)] | None = _BY_ITS_TYPE
    """Mel bins; of fbank the width of a frame. 80 for fbank and 23 for mfcc where left out. [bins]"""
    num_ceps: Annotated[int, Field(gt=0, le=1024)] | None = _BY_ITS_TYPE
    """Coefficients of mfcc, the width of a frame; 13 where left out. [coefficients]"""
    low_freq: Annotated[float, Field(ge=0)] | None = _BY_ITS_TYPE
    """Lowest frequency of the mel bins in Hz; 20 where left out. [Hz]"""
    high_freq: float | None = _BY_ITS_TYPE
    """Highest frequency of the mel bins in Hz; zero or less is counted from half the sampling rate; -400 if
    left out. [Hz]"""
    frame_length: Annotated[float, Field(gt=0, le=1)] = 0.025
    """Length of a frame in seconds. [s]"""
    frame_shift: Annotated[float, Field(gt=0, le=1)] = 0.01
    """From the beginning of one frame to that of the next, in seconds. [s]"""
    dither: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Standard deviation of noise added to the samples, which reach from -1 to 1; the same for a cut each time. [1]"""
    sampling_rate: Annotated[int, Field(ge=1000, le=384_000)] | None = None
    """Audio of another rate is resampled to this one, in Hz; where left out, the corpus must have a
    single rate. [Hz]"""
    storage: Storage = "on_the_fly"
    """on_the_fly (computed by batch), lilcom_chunky (stored, compressed a little lossily) or numpy (stored as it is)."""

    @field_validator("num_mel_bins", "num_ceps", "low_freq", "high_freq", mode="before")
    @classmethod
    def _fill(cls, value: Any, info: ValidationInfo) -> Any:
        """The default of the type, where nothing is given."""
        own = _BY_TYPE.get(str(info.data.get("type")), {})
        return own.get(str(info.field_name)) if value is None else value

    def width(self, sampling_rate: int | None = None) -> int | None:
        """Numbers in a frame, a model's `input_dim`; of a spectrogram None where no sampling rate (Hz) is known."""
        if self.type == "spectrogram":
            rate = self.sampling_rate or sampling_rate
            # Kaldi's Fourier transform is of the next power of two
            return None if rate is None else (1 << (int(self.frame_length * rate) - 1).bit_length()) // 2 + 1
        return self.num_ceps if self.type == "mfcc" else self.num_mel_bins

    def violations(self) -> Iterator[Violation]:
        """The type takes each parameter that is given, and they fit together."""
        for key in ("num_mel_bins", "num_ceps", "low_freq", "high_freq"):
            if getattr(self, key) is not None and not takes(self.type, key):
                owners = " or ".join(kind for kind, own in _BY_TYPE.items() if key in own)
                hint = f"leave it out, or type: {owners}"
                yield Violation(f"{self.type} features have no {key}", (key,), (("type",),), hint)
        if self.num_ceps is not None and self.num_mel_bins is not None and self.num_ceps > self.num_mel_bins:
            message = f"{self.num_ceps} coefficients cannot be made of {self.num_mel_bins} mel bins"
            if "num_ceps" in self.model_fields_set:
                yield Violation(message, ("num_ceps",), (("num_mel_bins",),), f"at most {self.num_mel_bins}")
            else:
                yield Violation(message, ("num_mel_bins",), (("type",),), f"at least {self.num_ceps}")
        if self.frame_shift > self.frame_length:
            message = f"frames of {self.frame_length} s every {self.frame_shift} s leave audio out between them"
            yield Violation(message, ("frame_shift",), (("frame_length",),), f"at most {self.frame_length}")
        yield from self._frequency_violations()

    def _frequency_violations(self) -> Iterator[Violation]:
        """The mel bins lie between 0 and half the sampling rate, where it is known."""
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
    """How cuts become batches."""

    max_duration: Seconds | None = None
    """Seconds of audio in a batch, padding counted: cuts of like lengths come together (lhotse's
    `DynamicBucketingSampler`). Where left out, a batch has `batch_size` cuts. [s]"""
    num_buckets: Annotated[int, Field(ge=1, le=1000)] = 10
    """Classes of length into which cuts are sorted under max_duration. [buckets]"""
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that make batches; 0 makes them in the training process. [processes]"""
    speakers: bool = False
    """Add who speaks: `speakers`, `segments` in seconds and `speaker_activity`, bool [B, T, S], to a batch."""
    bad_audio: Literal["error", "drop"] = "error"
    """A file that cannot be read: error ends the run where it is met; drop reads every file once when the corpus is
    prepared, leaves the bad ones out and lists them."""
