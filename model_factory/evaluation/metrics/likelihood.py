"""Likelihood of texts: from NLL of rows in nats to bits per token, bits per character and perplexity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data_manager.tokenizers.base import Tokenizer
from model_factory.evaluation.figure import Figure
from model_factory.evaluation.metrics.intervals import Interval, Values, bootstrap_ratio


@dataclass
class TextNLL:
    """NLL of each row in nats, and the number of tokens and characters that it covers."""

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)

    def add(self, nats: Tensor, ids: Tensor, counts: Tensor, tokenizer: Tokenizer | None) -> None:
        """Add a batch: nats [B], ids [B, L], and bool `counts` [B, L], True at the tokens that the nats cover."""
        self.nats += nats.double().tolist()
        self.tokens += counts.sum(1).tolist()
        if tokenizer is not None:
            rows = zip(ids.cpu(), counts.cpu(), strict=True)
            self.characters += [len(tokenizer.decode(row[kept].tolist())) for row, kept in rows]

    def figures(self, seed: int, *, note: str = "") -> list[Figure]:
        """Return bits_per_token = sum nats / (ln 2 sum tokens), bits_per_character alike, perplexity = exp(nats per token).

        Characters are those of the decoded text: the end token costs bits but has no character.
        """
        bits, tokens = np.array(self.nats) / math.log(2), np.array(self.tokens, dtype=np.float64)
        found = [ratio_figure("bits_per_token", bits, tokens, seed, unit="bits", note=note)]
        if sum(self.characters):
            characters = np.array(self.characters, dtype=np.float64)
            found.append(ratio_figure("bits_per_character", bits, characters, seed, unit="bits", note=note))
        first = found[0]
        ends = Interval(_power(first.low), _power(first.high), first.method)
        found.append(Figure("perplexity", _power(first.value), *ends[:2], first.n, "rows", seed, ends.method, "", note))
        return found


def ratio_figure(
    name: str,
    numerators: Values | Sequence[float],
    denominators: Values | Sequence[float],
    seed: int,
    *,
    of: str = "rows",
    unit: str = "",
    note: str = "",
) -> Figure:
    """Compute sum(numerators) / sum(denominators) over independent items, with its bootstrap interval."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    interval = bootstrap_ratio(top, bottom, seed=seed, what=of)
    value = float(top.sum() / bottom.sum()) if bottom.sum() else float("nan")
    return Figure(name, value, interval.low, interval.high, len(top), of, seed, interval.method, unit, note)


def row_nll(logits: Tensor, targets: Tensor, is_real: Tensor) -> Tensor:
    """Compute the NLL in nats [B] of targets [B, N] under logits [B, N, V], summed where bool `is_real` [B, N] is True."""
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return torch.where(is_real, losses, 0.0).double().sum(1)


def _power(bits: float) -> float:
    try:
        return float(2.0**bits)
    except OverflowError:
        return float("inf")
