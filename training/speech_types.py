"""Type of `training.speech`: what the tasks of speech add to an encoder; no torch is imported."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from yaml_config.strict_model import StrictModel, Violation

Count = Annotated[int, Field(ge=0, le=100)]
Width = Annotated[int, Field(ge=0, le=10_000)]


class SpecAugmentConfig(StrictModel):
    """Bands of frequencies and stretches of time that are hidden in training (Park et al. 2019, arXiv 1904.08779)."""

    frequency_masks: Count = 2
    """Bands that are hidden in each utterance; 0: none. [bands]"""
    frequency_width: Width = 27
    """Widest band, in mel bins; each is of 0 to so many. [bins]"""
    time_masks: Count = 2
    """Stretches that are hidden in each utterance; 0: none. [stretches]"""
    time_width: Width = 40
    """Longest stretch, in frames. [frames]"""
    time_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Longest stretch as a share of the utterance; the shorter of the two bounds holds. [share]"""

    def violations(self) -> Iterator[Violation]:
        """Masks have a width."""
        for name in ("frequency", "time"):
            if getattr(self, f"{name}_masks") and not getattr(self, f"{name}_width"):
                message = f"{name}_width 0 hides nothing"
                yield Violation(message, (f"{name}_width",), ((f"{name}_masks",),), f"{name}_masks: 0")


class SpeechTaskConfig(StrictModel):
    """What the tasks `speech_recognition` and `diarization` put around an encoder."""

    subsampling: Literal[1, 2, 4, 8] = 4
    """Frames that become one position of the encoder, by convolutions of stride 2. [frames]"""
    channels: Annotated[int, Field(gt=0, le=4096)] = 32
    """Channels of these convolutions. [channels]"""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    """What is hidden in training; null: nothing."""
    num_speakers: Annotated[int, Field(gt=0, le=6)] = 2
    """Of diarization: the most speakers of a recording. [speakers]"""
