"""Parts of chunked attention, each against its formula: plan, buffers, views, factors and dtypes."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from threading import Thread

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from model.attention.chunked import plan, run
from model.attention.chunked.block import Block
from model.attention.chunked.features import LOG2_E, Kernel
from model.attention.chunked.inputs import NO_KEY_YET, Inputs, part
from model.attention.chunked.op import linear_attention
from model.attention.chunked.plan import (
    CHUNK,
    Group,
    Workspace,
    block_sizes,
    chunks_at_once,
    count_groups,
    make_plan,
    workspace,
)
from model.attention.chunked.state import empty_borders, make_decays, zero_sums
from tests.model.test_attention_core import MAPS, expected, linear_core, qkv
from tests.model.tiny import gap
from tests.oracles import attention as oracle

CPU = torch.device("cpu")
TOKENS = [0, 1, 63, 64, 65, 127, 128, 129, 1000, 4096, 100_000]


def test_chunks_at_once_fill_the_bytes_of_a_group() -> None:
    """On a CPU their number is fixed; elsewhere three buffers of states, features or pairs of tokens fill a gigabyte."""
    assert chunks_at_once("cpu", 256, 64, torch.float32) == 24
    assert chunks_at_once("cuda", 256, 64, torch.float32) == 2**30 // (3 * 4 * 256 * 64) == 5461
    assert chunks_at_once("cuda", 256, 128, torch.float64) == 2**30 // (3 * 8 * 256 * 128)
    assert chunks_at_once("cuda", 256, 8, torch.float32) == 2**30 // (3 * 4 * 256 * CHUNK)
    assert chunks_at_once("cuda", 8, 8, torch.float32) == 2**30 // (3 * 4 * CHUNK * CHUNK)
    assert chunks_at_once("cuda", 2**16, 2**16, torch.float32) == 1


def test_plan_without_chunks_has_whole_groups() -> None:
    made = make_plan((2, 3, 1000, 8), 48, has_chunks=False)
    assert (made.batch_block, made.chunks) == (2, 8)
    assert made.groups == [Group(0, 1, 512), Group(512, 1, 488)]
    assert make_plan((2, 3, 0, 8), 48, has_chunks=False).groups == []
    assert make_plan((2, 3, 513, 8), 54, has_chunks=False).groups == [Group(0, 1, 513)]


@pytest.mark.parametrize("at_once", [24, 1024])
@pytest.mark.parametrize("heads", [1, 5, 24, 25, 2000])
@pytest.mark.parametrize("batch", [1, 2, 7, 300])
def test_plan_uses_the_largest_blocks_that_fit(at_once: int, heads: int, batch: int) -> None:
    """Blocks take as many rows as fit, then as many chunks; they cover the batch and all tokens in order."""
    for tokens in TOKENS:
        shape, whole = (batch, heads, tokens, 8), tokens // CHUNK
        rows, chunks = block_sizes(shape, at_once)
        assert 1 <= rows <= batch
        assert rows == 1 or rows * heads <= at_once
        assert rows == batch or (rows + 1) * heads > at_once
        assert chunks == 1 or (chunks <= whole and chunks * rows * heads <= at_once)
        assert chunks >= max(whole, 1) or (chunks + 1) * rows * heads > at_once
        made = make_plan(shape, at_once)
        assert (made.batch_block, made.chunks) == (rows, chunks)
        assert [row for block in made.blocks(batch) for row in range(batch)[block]] == list(range(batch))
        assert all(block.stop - block.start == rows for block in made.blocks(batch)[:-1])
        full, rest = divmod(whole, chunks)
        lengths = [(chunks, CHUNK)] * full + [(rest, CHUNK)] * (rest > 0) + [(1, tokens % CHUNK)] * (tokens % CHUNK > 0)
        assert [(group.chunks, group.length) for group in made.groups] == lengths
        ends = [0, *(group.tokens.stop for group in made.groups)]
        assert [group.tokens.start for group in made.groups] == ends[:-1]
        assert ends[-1] == tokens
        assert count_groups(shape, at_once) == len(made.groups)


def test_plan_of_an_empty_input() -> None:
    assert block_sizes((0, 4, 200, 8), 24) == (1, 3)
    assert block_sizes((3, 0, 6400, 8), 24) == (3, 24)


def test_workspace_reuses_and_grows_buffers() -> None:
    space = Workspace(torch.float64, CPU)
    first = space("a", 2, 3)
    assert (first.dtype, first.shape, first.is_contiguous()) == (torch.float64, (2, 3), True)
    assert space("a", 2, 3) is first
    assert space("b", 2, 3).data_ptr() != first.data_ptr()
    assert space("a", 3, 2).data_ptr() == space("a", 5).data_ptr() == space("a", 6).data_ptr() == first.data_ptr()
    larger = space("a", 7)
    assert larger.untyped_storage().nbytes() == 7 * 8
    assert space("a", 2, 3).data_ptr() == larger.data_ptr() != first.data_ptr()


def test_workspace_limits_cached_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "VIEWS", 3)
    space = Workspace(torch.float32, CPU)
    space("a", 9)
    kept = [space("a", size) for size in (1, 2)]
    assert all(space("a", size) is one for size, one in zip((1, 2), kept, strict=True))
    space("a", 3)
    assert space("a", 1) is not kept[0]
    for size in range(1, 9):
        assert space("a", size).shape == (size,)
        assert len(space._views) <= 3


def test_workspace_is_per_thread_and_dtype() -> None:
    one, found = workspace(torch.float32, CPU), []
    assert workspace(torch.float32, CPU) is one
    assert workspace(torch.float64, CPU) is not one
    assert (one.dtype, workspace(torch.float64, CPU).dtype, one.device) == (torch.float32, torch.float64, CPU)
    thread = Thread(target=lambda: found.append(workspace(torch.float32, CPU)))
    thread.start()
    thread.join()
    assert found[0] is not one
    with torch.inference_mode():
        made = one("made in inference mode", 2)
    made.add_(torch.ones(2, requires_grad=True).detach())
    meta = torch.device("meta")
    other = workspace(torch.float64, meta)
    assert workspace(torch.float64, meta) is not other
    assert (other("a", 2).device, other("a", 2).dtype) == (meta, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_part_is_a_view_if_strides_allow(dtype: torch.dtype) -> None:
    """Batch and heads can be joined in a contiguous [B, H, N, D] or in one row, not with interleaved heads."""
    space, tokens = Workspace(dtype, CPU), slice(2, 5)
    joined = torch.arange(3 * 2 * 7 * 4.0).view(3, 2, 7, 4)
    beside = torch.arange(3 * 7 * 2 * 4.0).view(3, 7, 2, 4).transpose(1, 2)
    for x, rows, is_view in (
        (joined, slice(1, 3), True),
        (joined, slice(1, 2), True),
        (beside, slice(1, 2), True),
        (beside, slice(1, 3), False),
        (beside, slice(0, 3), False),
    ):
        found = part(x, rows, tokens, space, "x")
        wanted = torch.stack([x[row, head, tokens] for row in range(3)[rows] for head in range(2)])
        assert found.dtype == dtype
        assert torch.equal(found, wanted.to(dtype))
        views_x = found.data_ptr() == x[rows, :, tokens].data_ptr()
        assert views_x == (is_view and dtype == torch.float32)
        assert views_x or found.data_ptr() == space("x", *x[rows, :, tokens].shape).data_ptr()


def test_log_weights_have_the_wider_dtype() -> None:
    q = torch.zeros(3, 2, 5, 4, dtype=torch.float64)
    scale = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    rows, tokens = slice(1, 3), slice(1, 4)
    for key_mask, log_scale in ((None, None), (mask, None), (None, scale), (mask, scale)):
        found = Inputs(q, q, q, key_mask, log_scale, Kernel("identity")).log_weights(rows, tokens, torch.float64)
        if key_mask is None and log_scale is None:
            assert found is None
            continue
        for row in (1, 2):
            for head in (0, 1):
                for token in (1, 2, 3):
                    wanted = 0.0 if log_scale is None else float(log_scale[row, head, token]) * LOG2_E
                    wanted = wanted if key_mask is None or bool(key_mask[row, token]) else -torch.inf
                    assert found[2 * (row - 1) + head, token - 1].item() == wanted


def test_sums_start_at_zero_in_the_workspace_dtype() -> None:
    space = Workspace(torch.float64, CPU)
    for _ in range(2):
        sums = zero_sums(3, 4, 5, space)
        assert [tuple(one.shape) for one in sums] == [(3, 4, 5), (3, 4), (3,)]
        assert all(one.dtype == torch.float64 for one in sums)
        assert not bool(sums.values.any() | sums.totals.any())
        assert bool((sums.peak == NO_KEY_YET).all())
        sums.values.fill_(7.0), sums.totals.fill_(7.0)  # as after a call


def test_borders_are_float32_for_half_inputs() -> None:
    x = torch.zeros(2, 3, 200, 4, dtype=torch.bfloat16)
    inputs = Inputs(x, x, x[..., :2], None, None, Kernel("identity"))
    for is_causal, keep, count in ((True, True, count_groups(x.shape, 24)), (False, True, 1), (True, False, 0)):
        kept = run.allocate_borders(inputs, is_causal=is_causal, keep=keep)
        assert [tuple(one.shape) for one in kept] == [(2, 3, count, 4, 2), (2, 3, count, 4), (2, 3, count)]
        assert all(one.dtype == torch.float32 for one in kept)
    assert empty_borders(x, 1, 4, 2, torch.float64).peaks.dtype == torch.float64
    drawn = torch.randn(3, 4, 2), torch.randn(3, 4), torch.randn(3)
    kept = empty_borders(x, 2, 4, 2, torch.float32)
    kept.save(1, slice(1, 2), run.Sums(*drawn))
    assert all(torch.equal(one, other) for one, other in zip(kept.load(1, slice(1, 2)), drawn, strict=True))


@pytest.mark.parametrize("lowest", [NO_KEY_YET, -0.5])
def test_decays_agree_with_their_formula(lowest: float) -> None:
    """Each factor of `Decays`, token by token, from the largest scale so far; masked keys have scale -inf."""
    rows, group = 2, Group(128, 3, 4)
    scale = 3 * torch.randn(rows, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale[0, :6] = -torch.inf
    start = torch.full((rows,), lowest, dtype=torch.float64)
    found = make_decays(scale, start, group, Workspace(torch.float64, CPU))
    assert found.within.shape == (rows, 3, 4, 4)
    assert found.read.shape == found.write.shape == found.is_empty.shape == (rows, 3, 4, 1)
    assert found.carry.shape == (rows, 3, 1, 1)
    for row in range(rows):
        most = [max([lowest, *scale[row, : token + 1].tolist()]) for token in range(12)]
        assert found.peak[row].item() == most[-1]
        for token in range(12):
            chunk, place = divmod(token, 4)
            before, after = lowest if chunk == 0 else most[4 * chunk - 1], most[4 * chunk + 3]
            own = float(scale[row, token])
            assert found.read[row, chunk, place, 0].item() == pytest.approx(2 ** (before - most[token]), rel=1e-12)
            assert found.write[row, chunk, place, 0].item() == pytest.approx(2 ** (own - after), rel=1e-12)
            assert found.carry[row, chunk, 0, 0].item() == pytest.approx(2 ** (before - after), rel=1e-12)
            assert found.is_empty[row, chunk, place, 0].item() == (most[token] <= NO_KEY_YET)
            for other in range(4):
                c = float(scale[row, 4 * chunk + other])
                wanted = 2 ** (c - most[token]) if other <= place else 0.0
                assert found.within[row, chunk, place, other].item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("causal", [False, True])
def test_out_buffers_are_never_resized(name: str, causal: bool) -> None:
    """torch warns if it resizes an `out` tensor; several head counts, blocks, chunks and a shorter last chunk."""
    core, width = linear_core(name), 5
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 20, 70, size, generator=generator, requires_grad=True) for size in (8, 8, width))
    if name in ("favor++", "favor#"):
        q, k, v = (x[:, :2].detach().requires_grad_() for x in (q, k, v))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = core(q, k, v, causal=causal)
        gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    wanted = expected(core, q, k, v, causal=causal)
    assert gap(out, wanted) < 3e-6
    theirs = torch.autograd.grad(wanted.square().sum(), (q, k, v))
    assert max(map(gap, gradients, theirs)) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_interleaved_heads_use_separate_buffers(causal: bool) -> None:
    """q, k and v of several rows cannot be views then, and must not share a buffer."""
    core, generator = linear_core("elu"), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 70, 2, 8, generator=generator).transpose(1, 2).requires_grad_() for _ in range(3))
    out, wanted = core(q, k, v, causal=causal), expected(core, q, k, v, causal=causal)
    assert gap(out, wanted) < 3e-6
    ours, theirs = (torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (out, wanted))
    assert max(map(gap, ours, theirs)) < 1e-5


def test_block_is_its_rows_with_all_heads() -> None:
    q, k, v = (torch.rand(5, 3, 70, size) for size in (4, 4, 2))
    weight = torch.randn(1, 6, 4)
    block = Block(Inputs(q, k, v, None, None, Kernel("exp", weight, weight)), slice(3, 5), Workspace(q.dtype, CPU))
    assert block.size == 6
    assert [tuple(one.shape) for one in block.start()] == [(6, 6, 2), (6, 6), (6,)]
    group = Group(64, 1, 6)
    found = block.queries(group)
    assert torch.equal(found[0], q[3:, :, 64:].flatten(0, 1))
    logits = found[0] @ weight[0].T
    torch.testing.assert_close(found[1], (logits - logits.amax(-1, keepdim=True)).exp())


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_rounded_only_once(name: str, causal: bool, dtype: torch.dtype) -> None:
    core = linear_core(name)
    q, k, v = (x.to(dtype) for x in qkv(70, 70))
    wide = core(q.float(), k.float(), v.float(), causal=causal)
    assert torch.equal(core(q, k, v, causal=causal), wide.to(dtype))


@pytest.mark.parametrize("causal", [False, True])
def test_float64_is_float64_throughout(causal: bool) -> None:
    """Also with scales and masks, against the sums written out."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.rand(2, 2, 70, size, generator=generator, dtype=torch.float64) + 0.1 for size in (4, 4, 3))
    scale = torch.randn(2, 2, 70, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 70, generator=generator) > 0.3
    log_kernel = (q @ k.mT).log() + scale[:, :, None]
    wanted = oracle.from_log_kernel(log_kernel, v, oracle.visible(mask, 70, 70, causal))
    out = linear_attention(q, k, v, Kernel("identity"), key_mask=mask, log_scale=scale, causal=causal)
    assert gap(out, wanted) < 1e-13


def test_operator_gradient_only_for_output() -> None:
    """No gradient is computed unless it is needed; the kernel has no gradient."""
    q, k, v = (torch.rand(1, 2, 70, 3, requires_grad=True) for _ in range(3))
    kernel: list[Tensor | None] = [None] * 4
    outputs = torch.ops.model_factory.linear_attention(q, k, v, None, None, *kernel, "identity", True, True)
    assert [one.requires_grad for one in outputs] == [True, False, False, False, False]
    assert all(one.shape[2] == count_groups(q.shape, 24) for one in outputs[2:])
    (gradient,) = torch.autograd.grad(outputs[0].sum(), v)
    # d out_i / d v_j is A_ij / sum_j A_ij, so that its sum over i does not depend on v.
    weights = (q @ k.mT).tril()
    weights = (weights / weights.sum(-1, keepdim=True)).sum(-2)
    torch.testing.assert_close(gradient, weights[..., None].expand(1, 2, 70, 3))


def test_causal_call_needs_as_many_keys_as_queries() -> None:
    q, k, v = qkv(5, 4)
    with pytest.raises(ValueError, match="got 5 queries and 4 keys"):
        linear_attention(q.exp(), k.exp(), v, Kernel("identity"), causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_fake_tensors_have_the_real_layout(causal: bool, keep: bool, dtype: torch.dtype) -> None:
    """Forward and backward for all features and groups: torch.compile plans by the fake layout."""

    def layouts(mode: AbstractContextManager[object]) -> list[tuple[object, ...]]:
        with mode:
            q, k, v = (torch.ones(2, 30, 140, size, dtype=dtype) for size in (4, 4, 3))
            weight = torch.ones(1, 6, 4)
            call = (q, k, v, None, None, weight, weight, None, None, "exp", causal)
            outputs = torch.ops.model_factory.linear_attention(*call, keep)
            made = list(outputs)
            if keep:
                made += torch.ops.model_factory.linear_attention_backward(outputs[0], list(outputs), *call)
            return [(tuple(one.shape), one.dtype, one.stride()) for one in made]

    assert layouts(FakeTensorMode()) == layouts(nullcontext())
