"""Scan over chunks by a constant number of operators, for devices on which each operator is a launch.

With the running maxima p_0 .. p_G at the borders of chunks, in log2 and never falling, and chunk c adding A_c in units
of 2^p_(c+1), the state before chunk b is
    S_b = 2^(p_0 - p_b) S_0 + sum_(c < b) 2^(p_(c+1) - p_b) A_c
which is linear in S_0 and A. Chunks are taken in n spans of g, both about sqrt(G): one product with a triangle of
factors inside the spans, one over the spans. Every factor is at most 1, also before the first key, where p = -1e30.
"""

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Spans(NamedTuple):
    """Factors of the scan over G chunks of R rows."""

    inside: Tensor
    """2^(p_(c+1) - p_b) for chunks c < b of one span, else 0, [R n, g, g]."""
    ends: Tensor
    """2^(p_(c+1) - p) with p at the end of the span, [R n, 1, g]."""
    across: Tensor
    """Factors from the first state and the sums of each span to the state at each border of spans, [R, n + 1, n + 1]."""
    decay: Tensor
    """2^(p - p_b) with p at the start of the span, [R n, g, 1]."""


def span_length(chunks: int) -> int:
    """Return the chunks of a span: near the root of `chunks`, with the least padding of the last span."""
    root = isqrt(chunks)
    return min(range((root + 1) // 2, 2 * root + 1), key=lambda length: (-chunks % length, abs(length - root)))


def make_spans(borders: Tensor) -> Spans:
    """Compute the factors from the running maxima [R, G + 1] at the borders of chunks."""
    rows, chunks = borders.shape[0], borders.shape[1] - 1
    length = span_length(chunks)
    if missing := -chunks % length:
        borders = torch.cat([borders, borders[:, -1:].expand(-1, missing)], 1)
    before, after = (x.reshape(-1, length) for x in (borders[:, :-1], borders[:, 1:]))  # [R n, g]
    outer = borders[:, ::length]  # [R, n + 1]
    start, end = (x.reshape(rows * x.shape[1], 1) for x in (outer[:, :-1], outer[:, 1:]))
    return Spans(
        (after.unsqueeze(-2) - before.unsqueeze(-1)).exp2_().tril_(-1),
        (after - end).exp2_().unsqueeze(-2),
        (outer.unsqueeze(-2) - outer.unsqueeze(-1)).exp2_().tril_(),
        (start - before).exp2_().unsqueeze(-1),
    )


def scan(spans: Spans, first: Tensor, added: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, [R, G, F] in `out`, and the last one [R, F].

    `first` [R, F] is the state before chunk 0, and `added` [R, G, F] what each chunk adds.
    """
    (rows, chunks, width), (length, count) = added.shape, _sizes(spans)
    parts = _split(added, length)
    sums = torch.bmm(spans.ends, parts).view(rows, count, width)
    borders = torch.bmm(spans.across, torch.cat([first.unsqueeze(1), sums], 1))  # [R, n + 1, F]
    states = torch.bmm(spans.inside, parts, out=None if chunks < length * count else out.view(parts.shape))
    states.addcmul_(borders[:, :-1].reshape(rows * count, 1, width), spans.decay)
    return states.view(rows, -1, width)[:, :chunks], borders[:, -1]


def scan_back(spans: Spans, last: Tensor, gradients: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `added`, [R, G, F] in `out`, and of `first` [R, F] in `scan`.

    `last` [R, F] is the gradient of the last state, and `gradients` [R, G, F] those of the states before each chunk.
    """
    (rows, chunks, width), (length, count) = gradients.shape, _sizes(spans)
    parts = _split(gradients, length)
    borders = torch.bmm(spans.decay.mT, parts).view(rows, count, width)
    of_sums = torch.bmm(spans.across.mT, torch.cat([borders, last.unsqueeze(1)], 1))  # [R, n + 1, F]
    added = torch.bmm(spans.inside.mT, parts, out=None if chunks < length * count else out.view(parts.shape))
    added.addcmul_(of_sums[:, 1:].reshape(rows * count, 1, width), spans.ends.mT)
    return added.view(rows, -1, width)[:, :chunks], of_sums[:, 0]


def _sizes(spans: Spans) -> tuple[int, int]:
    """Return the chunks of a span g and the spans n."""
    return spans.inside.shape[-1], spans.across.shape[-1] - 1


def _split(x: Tensor, length: int) -> Tensor:
    """Return x [R, G, F] by spans, [R n, g, F], with zeros after the last chunk."""
    missing = -x.shape[1] % length
    return (pad(x, (0, 0, 0, missing)) if missing else x).reshape(-1, length, x.shape[-1])
