"""Type of `training.speech`: settings that speech tasks add to an encoder; no torch is imported."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from yaml_config.strict_model import StrictModel, Violation

Count = Annotated[int, Field(ge=0, le=100)]
Width = Annotated[int, Field(ge=0, le=10_000)]


class SpecAugmentConfig(StrictModel):
    """SpecAugment: masked bands of frequencies and stretches of time (Park et al. 2019, arXiv 1904.08779)."""

    frequency_masks: Count = 2
    """Masked frequency bands of each utterance; 0: no masks. [bands]"""
    frequency_width: Width = 27
    """Widest band, in mel bins; each band has 0 to this many. [bins]"""
    time_masks: Count = 2
    """Masked time stretches of each utterance; 0: no masks. [stretches]"""
    time_width: Width = 40
    """Longest stretch, in frames. [frames]"""
    time_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Longest stretch as a share of the utterance; the shorter of the two bounds applies. [share]"""

    def violations(self) -> Iterator[Violation]:
        """Yield masks without a width."""
        for name in ("frequency", "time"):
            if getattr(self, f"{name}_masks") and not getattr(self, f"{name}_width"):
                message = f"{name}_width 0 hides nothing"
                yield Violation(message, (f"{name}_width",), ((f"{name}_masks",),), f"{name}_masks: 0")


class SpeechTaskConfig(StrictModel):
    """Settings of the tasks `speech_recognition` and `diarization`."""

    subsampling: Literal[1, 2, 4, 8] = 4
    """Frames that become one position of the encoder, by convolutions of stride 2. [frames]"""
    channels: Annotated[int, Field(gt=0, le=4096)] = 32
    """Channels of these convolutions. [channels]"""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    """Masks of SpecAugment in training; null: no masks."""
    num_speakers: Annotated[int, Field(gt=0, le=6)] = 2
    """For diarization: the most speakers of a recording. [speakers]"""
