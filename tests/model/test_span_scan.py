"""Scan over chunks by spans: against the loop over chunks, its adjoint, and the factors of borders without a key."""

import pytest
import torch
from torch import Tensor

from model.attention.chunked.inputs import NO_KEY_YET
from model.attention.chunked.spans import make_spans, scan, scan_back, span_length
from model.attention.chunked.state import Sums, join_sums, scan_chunks, split_sums
from tests.model.tiny import gap

COUNTS = [1, 2, 3, 4, 7, 16, 17, 127, 128, 1024]


def inputs(chunks: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return borders [3, G + 1] that rise by up to dozens, what is before chunk 0 [3, 5], and what chunks add [3, G, 5].

    Row 0 has no key in its first half, row 1 none at all.
    """
    generator = torch.Generator().manual_seed(chunks)
    borders = 8 * torch.randn(3, chunks + 1, generator=generator, dtype=dtype)
    first, added = (torch.randn(3, *size, 5, generator=generator, dtype=dtype) for size in ((), (chunks,)))
    half = chunks // 2
    borders[0, : half + 1], borders[1] = NO_KEY_YET, NO_KEY_YET
    first[:2], added[0, :half], added[1] = 0, 0, 0
    return borders.cummax(1).values, first, added


def loop(borders: Tensor, first: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    carry = (borders[:, :-1] - borders[:, 1:]).exp2()[:, :, None, None]
    states, last = torch.empty_like(added)[:, :, None], torch.empty_like(first)[:, None]
    parts = added[:, :, None].unbind(1), carry.unbind(1), states.unbind(1)
    scan_chunks(first[:, None], parts[0], parts[1], parts[2], last)
    return states[:, :, 0], last[:, 0]


def by_spans(borders: Tensor, first: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    return scan(make_spans(borders), first, added, torch.empty_like(added))


@pytest.mark.parametrize("chunks", COUNTS)
def test_spans_agree_with_the_loop(chunks: int) -> None:
    given = inputs(chunks, torch.float64)
    wanted = loop(*given)
    for found, other in zip(by_spans(*given), wanted, strict=True):
        assert gap(found, other) < 1e-14
    for found, other in zip(by_spans(*(x.float() for x in given)), wanted, strict=True):
        assert gap(found, other) < 1e-6


@pytest.mark.parametrize("chunks", COUNTS)
def test_gradient_of_spans_is_that_of_the_loop(chunks: int) -> None:
    borders, first, added = inputs(chunks, torch.float64)
    generator = torch.Generator().manual_seed(0)
    states, last = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (added, first))
    ours = scan_back(make_spans(borders), last, states, torch.empty_like(added))
    first, added = first.requires_grad_(), added.requires_grad_()
    now, total = first, (first * 0).sum()
    for chunk in range(chunks):
        total = total + (now * states[:, chunk]).sum()
        now = now * (borders[:, chunk] - borders[:, chunk + 1]).exp2()[:, None] + added[:, chunk]
    theirs = torch.autograd.grad(total + (now * last).sum(), (added, first))
    for found, wanted in zip(ours, theirs, strict=True):
        assert gap(found, wanted) < 1e-14


@pytest.mark.parametrize("chunks", COUNTS)
def test_factors_are_at_most_one(chunks: int) -> None:
    spans = make_spans(inputs(chunks, torch.float32)[0])
    assert all(bool(((part >= 0) & (part <= 1)).all()) for part in spans)
    assert spans.inside.shape[-1] == span_length(chunks)


def test_spans_are_near_the_root_with_little_padding() -> None:
    assert [span_length(chunks) for chunks in (1, 4, 16, 64, 256, 1024)] == [1, 2, 4, 8, 16, 32]
    for chunks in range(1, 2000):
        length = span_length(chunks)
        assert chunks**0.5 / 2 - 1 < length < 2 * chunks**0.5 + 1
        assert -chunks % length <= chunks**0.5 / 2


def test_sums_are_joined_and_split() -> None:
    sums = Sums(torch.randn(2, 3, 4), torch.randn(2, 3), torch.zeros(2))
    joined = join_sums(sums)
    assert joined.shape == (2, 15)
    values, totals = split_sums(joined, 4)
    assert torch.equal(values, sums.values)
    assert torch.equal(totals, sums.totals)
    assert values.data_ptr() == joined.data_ptr()
