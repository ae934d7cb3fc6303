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
    "mfcc": {"num_mel_bins": 23, "num_ceps": 13, "cepstral_lifter": 22, "low_freq": 20.0, "high_freq": -400.0},
    "spectrogram": {},
}
"""Type-specific parameters with their defaults."""
_TYPE_KEYS = tuple(dict.fromkeys(key for own in _PARAMETERS.values() for key in own))
_ENERGY_FLOOR = 1e-10


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
    snip_edges: bool = False
    """true: only frames that lie inside the audio, as in Kaldi, so a cut has fewer of them; false: one frame for each
    frame_shift, with the ends mirrored."""
    window_type: Literal["povey", "hanning", "hamming", "rectangular", "blackman"] = "povey"
    """Window by which each frame is multiplied; povey is Kaldi's."""
    preemph_coeff: Annotated[float, Field(ge=0, le=1)] = 0.97
    """Coefficient of pre-emphasis; 0 turns it off. [1]"""
    remove_dc_offset: bool = True
    """Subtract the mean of each frame."""
    round_to_power_of_two: bool = True
    """Pad frames with zeros to a power of two before the Fourier transform."""
    use_energy: bool = False
    """Use the log energy of each frame: fbank gets it as an additional first value, so frames are one wider; in mfcc
    and spectrogram it replaces the first value."""
    energy_floor: Annotated[float, Field(ge=0, le=1)] = _ENERGY_FLOOR
    """Smallest energy of a frame before the logarithm, with use_energy. [1]"""
    cepstral_lifter: Annotated[int, Field(ge=1, le=1000)] | None = _TYPE_DEFAULT
    """Coefficient of the liftering of mfcc, which scales up the higher coefficients; default 22. [1]"""
    dither: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Standard deviation of noise added to the samples, which lie in [-1, 1]; fixed per cut. [1]"""
    sampling_rate: Annotated[int, Field(ge=1000, le=384_000)] | None = None
    """Rate in Hz to which audio is resampled; if left out, the corpus must have a single rate. [Hz]"""
    channel: Annotated[int, Field(ge=0)] | Literal["mean", "each"] | None = None
    """Channel of recordings with several: its number, mean (their average) or each (a cut for each channel, with the
    segments of that channel); if left out, channels that differ are an error. [1]"""
    storage: Storage = "on_the_fly"
    """on_the_fly (computed per batch), lilcom_chunky (stored, slightly lossy compression) or numpy (stored exactly)."""

    @field_validator(*_TYPE_KEYS, mode="before")
    @classmethod
    def _fill(cls, value: Any, info: ValidationInfo) -> Any:
        """Fill in the default of the feature type if no value is set."""
        own = _PARAMETERS.get(str(info.data.get("type")), {})
        return own.get(str(info.field_name)) if value is None else value

    def width(self, sampling_rate: int | None = None) -> int | None:
        """Return the frame width, a model's `input_dim`; None for a spectrogram if no sampling rate (Hz) is known."""
        if self.type == "spectrogram":
            rate = self.sampling_rate or sampling_rate
            return None if rate is None else self.fft_length(rate) // 2 + 1
        if self.type == "mfcc" or self.num_mel_bins is None:
            return self.num_ceps
        return self.num_mel_bins + self.use_energy

    @property
    def first_centre(self) -> float:
        """Centre of the first frame in seconds."""
        return 0.5 * (self.frame_length if self.snip_edges else self.frame_shift)

    def fft_length(self, sampling_rate: int) -> int:
        """Return the samples of the Fourier transform of a frame at a sampling rate in Hz."""
        samples = int(self.frame_length * sampling_rate)
        return 1 << (samples - 1).bit_length() if self.round_to_power_of_two else samples

    def fft_problem(self, sampling_rate: int) -> str | None:
        """Return the problem of a transform of odd length, of which lhotse cannot compute mel bins; None if it can."""
        length = self.fft_length(sampling_rate)
        if self.type == "spectrogram" or length % 2 == 0:
            return None
        return f"frames of {length} samples, an odd number, have no mel bins without round_to_power_of_two"

    def violations(self) -> Iterator[Violation]:
        """Check that each parameter is valid for the type and that they are consistent."""
        for key in _TYPE_KEYS:
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
        if self.energy_floor != _ENERGY_FLOOR and not self.use_energy:
            message = "energy_floor has no effect without use_energy"
            yield Violation(message, ("energy_floor",), (("use_energy",),), "leave it out, or use_energy: true")
        problem = self.fft_problem(self.sampling_rate) if self.sampling_rate is not None else None
        if problem is not None:
            yield Violation(
                problem, ("round_to_power_of_two",), (("frame_length",), ("sampling_rate",)), "leave it out"
            )
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
