"""Speech metrics: word and character errors (WER, CER) by jiwer, diarization errors (DER) by NIST's formula."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from model_factory.training.errors import UnfitError


class Errors(NamedTuple):
    """Sum of substitutions, deletions and insertions, and the size of the reference."""

    errors: int
    size: int


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Count word errors between two transcripts, aligned by jiwer; raise UnfitError if jiwer is not installed."""
    found = _import_jiwer().process_words([reference], [hypothesis])
    return Errors(
        found.substitutions + found.deletions + found.insertions, found.hits + found.substitutions + found.deletions
    )


def character_errors(reference: str, hypothesis: str) -> Errors:
    """Count character errors between two transcripts, spaces included."""
    found = _import_jiwer().process_characters([reference], [hypothesis])
    return Errors(
        found.substitutions + found.deletions + found.insertions, found.hits + found.substitutions + found.deletions
    )


@dataclass(frozen=True)
class SpeakerErrors:
    """Errors of one recording in frames, summed over speakers: DER = (missed + false_alarm + confusion) / speech."""

    missed: int
    false_alarm: int
    confusion: int
    speech: int

    @property
    def errors(self) -> int:
        """Return the sum of all three kinds of errors."""
        return self.missed + self.false_alarm + self.confusion


def speaker_errors(reference: Tensor, hypothesis: Tensor, collar: int = 0) -> SpeakerErrors:
    """Count diarization errors between activities bool [T, S] and [T, R] of one recording.

    With R(t) speakers in the reference, H(t) in the hypothesis and C(t) correct ones under the best one-to-one
    assignment over the whole recording (Fiscus et al. 2006, The Rich Transcription 2006 evaluation):

        missed = sum max(0, R - H)    false alarm = sum max(0, H - R)    confusion = sum min(R, H) - C

    Overlapping speech is scored. Frames within `collar` frames of the beginning or end of a segment of the reference are
    not scored.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    if collar:
        scored = ~_is_near_edge(reference, collar)
        reference, hypothesis = reference[scored], hypothesis[scored]
    together = reference.double().T @ hypothesis.double()  # (S, R) frames in which both speak
    rows, columns = linear_sum_assignment(together.cpu().numpy(), maximize=True)
    correct = int(together.cpu()[torch.as_tensor(rows), torch.as_tensor(columns)].sum())
    expected, found = reference.sum(1), hypothesis.sum(1)
    return SpeakerErrors(
        missed=int((expected - found).clamp(min=0).sum()),
        false_alarm=int((found - expected).clamp(min=0).sum()),
        confusion=int(torch.minimum(expected, found).sum()) - correct,
        speech=int(expected.sum()),
    )


def _is_near_edge(activity: Tensor, collar: int) -> Tensor:
    """Return bool [T], True at the `collar` frames on either side of each edge of a segment in activity bool [T, S]."""
    edges = torch.nn.functional.pad(activity.int().T, (1, 1)).diff(dim=1).ne(0).any(0)  # (T + 1): before frame t
    # frame t is near edge e if e - collar <= t < e + collar
    wide = torch.nn.functional.pad(edges.float(), (collar - 1, collar - 1)).unfold(0, 2 * collar, 1)
    return wide.any(1)


def _import_jiwer() -> ModuleType:
    """Import jiwer; raise UnfitError if it is not installed."""
    try:
        return import_module("jiwer")
    except ImportError as error:
        raise UnfitError("word error rates need jiwer, which is not installed: pip install jiwer") from error
