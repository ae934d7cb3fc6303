"""Error rates of speech: words by jiwer, frames of speakers by the formula of NIST's evaluations."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from training.errors import UnfitError


class Errors(NamedTuple):
    """Substitutions, deletions and insertions together, and the size of the reference."""

    errors: int
    size: int


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Errors of words between two transcripts, as jiwer aligns them; raises UnfitError where jiwer is not installed."""
    found = _jiwer().process_words([reference], [hypothesis])
    return Errors(
        found.substitutions + found.deletions + found.insertions, found.hits + found.substitutions + found.deletions
    )


def character_errors(reference: str, hypothesis: str) -> Errors:
    """Errors of characters between two transcripts, spaces counted."""
    found = _jiwer().process_characters([reference], [hypothesis])
    return Errors(
        found.substitutions + found.deletions + found.insertions, found.hits + found.substitutions + found.deletions
    )


@dataclass(frozen=True)
class SpeakerErrors:
    """Frames of one recording, counted once for each speaker: DER = (missed + false_alarm + confusion) / speech."""

    missed: int
    false_alarm: int
    confusion: int
    speech: int

    @property
    def errors(self) -> int:
        """All three kinds."""
        return self.missed + self.false_alarm + self.confusion


def speaker_errors(reference: Tensor, hypothesis: Tensor) -> SpeakerErrors:
    """Diarization errors between activities bool [T, S] and [T, R] of one recording.

    With R(t) speakers in the reference, H(t) in the hypothesis and C(t) of them right under the best assignment of one
    to the other over the whole recording (Fiscus et al. 2006, The Rich Transcription 2006 evaluation):

        missed = sum max(0, R - H)    false alarm = sum max(0, H - R)    confusion = sum min(R, H) - C

    Overlapping speech is scored, and no frames around the edges of segments are left out (a collar of 0).
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    together = reference.double().T @ hypothesis.double()  # (S, R) frames that two share
    rows, columns = linear_sum_assignment(together.cpu().numpy(), maximize=True)
    right = int(together.cpu()[torch.as_tensor(rows), torch.as_tensor(columns)].sum())
    wanted, told = reference.sum(1), hypothesis.sum(1)
    return SpeakerErrors(
        missed=int((wanted - told).clamp(min=0).sum()),
        false_alarm=int((told - wanted).clamp(min=0).sum()),
        confusion=int(torch.minimum(wanted, told).sum()) - right,
        speech=int(wanted.sum()),
    )


def _jiwer() -> ModuleType:
    try:
        return import_module("jiwer")
    except ImportError as error:
        raise UnfitError("word error rates are counted by jiwer, which is not installed: pip install jiwer") from error
