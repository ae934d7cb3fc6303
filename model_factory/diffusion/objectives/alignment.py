"""Alignment of a shortened row with the whole one: the posterior over its embeddings, by dynamic programming.

A row from which tokens are missing, and in which some tokens are masks, can be embedded into the whole row in several
ways. If all tokens go missing independently with the same probability, all embeddings are equally likely, so their
posterior follows from counts: F of the embeddings of prefixes, G of those of suffixes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ABSENT = -1
"""Id of the positions after the end of a row, in x_t and in x_0."""


class Alignment(NamedTuple):
    """Posterior over the embeddings of x_t in x_0, given both.

    Fields:
        positions: float64 [B, L, L], the probability that token i of x_t is token j of x_0; 0 for absent tokens.
        gaps: float64 [B, L + 1], the expected number of missing tokens before token i of x_t, and after its last one.
    """

    positions: Tensor
    gaps: Tensor


@torch.no_grad()
def align(x_t: Tensor, x_0: Tensor, mask: int) -> Alignment:
    """Compute the posterior of the alignment of rows x_t and x_0, int [B, L], which end in ABSENT; O(L^2) for each row.

    `mask` is the id that fits any token. Each row of x_t must be a subsequence of its row of x_0, up to masks.
    """
    width = x_t.shape[1]
    fits = (x_t[:, :, None] == x_0[:, None]) | (x_t == mask)[:, :, None]
    fits &= (x_t != ABSENT)[:, :, None] & (x_0 != ABSENT)[:, None]
    log_fits = torch.zeros(fits.shape, dtype=torch.float64, device=x_t.device).masked_fill(~fits, -torch.inf)
    length = (x_t != ABSENT).sum(1)
    # Suffixes are prefixes of the reversed rows, which begin with the absent tokens of x_t.
    counts = _count_embeddings(
        torch.cat([log_fits, log_fits.flip(1, 2)]), torch.cat([torch.zeros_like(length), width - length])
    )
    prefixes, suffixes = counts[: len(x_t)], counts[len(x_t) :].flip(1, 2)  # [B, L + 1, L + 1]
    total = suffixes[:, :1, :1]
    positions = (prefixes[:, :-1, :-1] + log_fits + suffixes[:, 1:, 1:] - total).exp()
    expected = (positions * torch.arange(width, device=x_t.device)).sum(-1)
    return Alignment(positions, gaps_between(expected, x_t, x_0))


def gaps_between(positions: Tensor, x_t: Tensor, x_0: Tensor) -> Tensor:
    """Return the numbers of missing tokens [B, L + 1] from positions [B, L] in x_0 of the tokens of x_t; 0 after its end."""
    ends = (x_0 != ABSENT).sum(1, keepdim=True).to(positions)
    after = torch.cat([torch.where(x_t != ABSENT, positions, ends), ends], 1)
    before = torch.cat([torch.full_like(ends, -1), after[:, :-1]], 1)
    return (after - before - 1).clamp_min(0).masked_fill(~has_gap(x_t), 0)


def has_gap(x_t: Tensor) -> Tensor:
    """Return bool [B, L + 1], True at the gaps of rows x_t [B, L]: before each token and after the last."""
    return torch.nn.functional.pad(x_t != ABSENT, (1, 0), value=True)


def left_align(tokens: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept tokens [B, L] of each row to its front, and fill with ABSENT; return also their old positions [B, L]."""
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    return tokens.masked_fill(~kept, ABSENT).gather(1, order), order


def _count_embeddings(log_fits: Tensor, start: Tensor) -> Tensor:
    """Return logarithms of the numbers of embeddings, [R, L + 1, L + 1], of tokens start .. i - 1 in the first j.

    log_fits [R, L, L] is 0 where token i of the shorter row fits token j of the longer one, else -inf; start int [R].
    """
    rows, width = log_fits.shape[:2]
    counts = log_fits.new_full((width + 1, rows, width + 1), -torch.inf)
    counts[0, torch.arange(rows, device=start.device), start] = 0.0
    steps = log_fits.permute(2, 0, 1).contiguous()
    for j in range(width):
        counts[j + 1] = counts[j]
        counts[j + 1, :, 1:] = torch.logaddexp(counts[j, :, 1:], counts[j, :, :-1] + steps[j])
    return counts.permute(1, 2, 0)
