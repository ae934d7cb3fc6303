"""MAUVE (Pillutla et al. 2021, arXiv 2102.01454) of samples against human text, if its library is installed."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

from evaluation.figure import Figure, Report

if TYPE_CHECKING:
    from evaluation.judge import Judge

FEWEST = 20


def mauve_report(judge: "Judge", texts: Sequence[str], human: Sequence[str], seed: int) -> Report:
    """Compute the area under the divergence curve of both sides' features, 0 to 1; a note where that is impossible.

    A text's feature is the judge's last hidden state at its last token. There is no interval: resamples contain texts
    twice, which form false clusters in MAUVE.
    """
    if find_spec("mauve") is None:
        return Report(notes=["MAUVE was left out: its library is not installed; pip install mauve-text"])
    kept = [[text for text in side if len(judge.ids(text)[0])] for side in (texts, human)]
    if min(map(len, kept)) < FEWEST:
        few = min(map(len, kept))
        return Report(notes=[f"MAUVE was left out: it needs {FEWEST} texts on each side, and there are {few}"])
    import mauve

    drawn, reference = (_features(judge, side) for side in kept)
    score = mauve.compute_mauve(p_features=reference, q_features=drawn, seed=seed, verbose=False).mauve
    nothing = float("nan")
    note = f"features of {judge.name}"
    return Report([Figure("mauve", float(score), nothing, nothing, len(drawn), "samples", seed, "none", "", note)])


@torch.no_grad()
def _features(judge: "Judge", texts: Sequence[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    rows = [judge.hidden(judge.ids(text))[0, -1].float().cpu().numpy() for text in texts]
    return np.stack(rows)
