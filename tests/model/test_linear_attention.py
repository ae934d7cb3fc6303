"""Chunked operator and recurrent form of linear attention, at every scale of the inputs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from model.attention.chunked import plan
from model.attention.chunked.features import Kernel
from model.attention.chunked.op import linear_attention
from model.attention.cores import LinearCore
from model.attention.feature_maps import FeatureMap
from tests.model.test_attention_core import MAPS, expected, linear_core, qkv
from tests.model.tiny import gap, lengths_mask
from tests.oracles import attention as oracle

HEAD_DIM, NB_FEATURES = 64, 256


class Softplus(FeatureMap):
    """Custom map with a log scale for each key."""

    def query(self, q):
        return torch.nn.functional.softplus(q)

    def key(self, k):
        return self.query(k), k.mean(-1)


def step_by_step(core, q, k, v, mask):
    """Compute the causal form token by token; masked tokens update the state under their mask."""
    state, outs = core.initial_state(k), []
    for t in range(q.shape[2]):
        now = slice(t, t + 1)
        state = core.update(state, k[:, :, now], v[:, :, now], key_mask=None if mask is None else mask[:, now])
        outs.append(core.attend(state, q[:, :, now]))
    return torch.cat(outs, 2)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("std", [1.0, 8.0, 20.0])
def test_recurrent_agrees_with_oracle(name, std):
    core, (q, k, v) = linear_core(name), qkv(90, 90, std=std)
    mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0, :5] = False
    for seen in (None, mask):
        wanted = expected(core, q, k, v, key_mask=seen, causal=True)
        assert gap(step_by_step(core, q, k, v, seen), wanted) < 1e-5


@pytest.mark.parametrize("name", MAPS)
def test_recurrent_padded_prompt_then_tokens(name):
    core, (q, k, v) = linear_core(name), qkv(80, 80)
    mask = lengths_mask([70, 41], 70)
    state = core.update(core.initial_state(k), k[:, :, :70], v[:, :, :70], key_mask=mask)
    for t in range(70, 80):
        out, state = core.step(state, q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1])
    kept = torch.cat([mask, torch.ones(2, 10, dtype=torch.bool)], 1)
    assert gap(out, core(q, k, v, key_mask=kept, causal=True)[:, :, -1:]) < 1e-5


def test_recurrent_state_selects_rows():
    core, (q, k, v) = linear_core("favor+"), qkv(4, 4)
    empty = core.initial_state(k)
    assert (core.attend(empty, q) == 0).all()
    state = core.update(empty, k, v).select(torch.tensor([1, 1, 0]))
    assert gap(core.attend(state, q[[1, 1, 0]]), core(q, k, v, causal=False)[[1, 1, 0]]) < 1e-5


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("std", [1.0, 8.0, 12.0])
def test_chunked_full_size_gradients_agree(name, causal, std):
    core = linear_core(name, HEAD_DIM, NB_FEATURES)
    inputs = [x.requires_grad_() for x in qkv(200, 200, std=std, head_dim=HEAD_DIM)]
    weight = torch.randn(2, 2, 200, HEAD_DIM, generator=torch.Generator().manual_seed(2))
    out, wanted = core(*inputs, causal=causal), expected(core, *inputs, causal=causal)
    assert gap(out, wanted) < 1e-5
    ours, theirs = (torch.autograd.grad((x * weight).sum(), inputs) for x in (out, wanted))
    assert max(map(gap, ours, theirs)) < 1e-4


@pytest.mark.parametrize("at_once", [1, 4, 7, 32, 1000])
@pytest.mark.parametrize("causal", [False, True])
def test_chunked_result_is_independent_of_the_plan(at_once, causal, monkeypatch):
    monkeypatch.setitem(plan.CHUNKS_AT_ONCE, "cpu", at_once)
    core, generator = linear_core("favor#"), torch.Generator().manual_seed(0)
    shape = (5, 200, 2, 8)  # transposed, as in MultiHeadAttention
    inputs = [torch.randn(shape, generator=generator).transpose(1, 2).requires_grad_() for _ in range(3)]
    mask = lengths_mask([200, 3, 64, 65, 130], 200)
    out, wanted = (f(*inputs, key_mask=mask, causal=causal) for f in (core, lambda *x, **y: expected(core, *x, **y)))
    assert gap(out, wanted) < 3e-6
    ours, theirs = (torch.autograd.grad(x.square().sum(), inputs) for x in (out, wanted))
    assert max(map(gap, ours, theirs)) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_chunked_custom_feature_map(causal):
    core, (q, k, v) = LinearCore(Softplus(8, 8)), (x.requires_grad_() for x in qkv(150, 150))
    mask = lengths_mask([150, 70], 150)
    log_kernel = core.features.log_query(q.double()).unsqueeze(-2) + core.features.log_key(k.double()).unsqueeze(-3)
    wanted = oracle.from_log_kernel(log_kernel.logsumexp(-1), v, oracle.visible(mask, 150, 150, causal))
    out = core(q, k, v, key_mask=mask, causal=causal)
    assert gap(out, wanted) < 3e-6
    ours, theirs = (torch.autograd.grad(x.square().sum(), [q, k, v]) for x in (out, wanted))
    assert max(map(gap, ours, theirs)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_chunked_half_precision_gradients(dtype, causal):
    core = linear_core("favor+", HEAD_DIM, NB_FEATURES)
    inputs = [x.to(dtype).requires_grad_() for x in qkv(200, 200, std=8.0, head_dim=HEAD_DIM)]
    out, wanted = core(*inputs, causal=causal), expected(core, *inputs, causal=causal)
    ours, theirs = (torch.autograd.grad(x.float().square().sum(), inputs) for x in (out, wanted))
    assert all(x.dtype == dtype and x.isfinite().all() for x in (out, *ours))
    assert max(map(gap, ours, theirs)) < (0.01 if dtype == torch.float16 else 0.06)


def test_underflow_rows_ignore_later_tokens():
    core = linear_core("favor+", HEAD_DIM, NB_FEATURES)
    q, k, v = qkv(200, 200, std=12.0, head_dim=HEAD_DIM)
    changed = k.clone()
    changed[:, :, 150:] *= 0.01  # later rows no longer underflow, or others do
    before, after = core(q, k, v, causal=True), core(q, changed, v, causal=True)
    assert gap(after[:, :, :150], before[:, :, :150]) <= 1e-6


def tiny_kernel(generator):
    weight = torch.randn(1, 6, 4, generator=generator)
    return Kernel("exp", weight, weight, torch.randn(1, 6, generator=generator), torch.full((1, 4), 0.25))


@pytest.mark.parametrize("causal", [False, True])
def test_chunked_operator_passes_opcheck(causal):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 70, 4, generator=generator, requires_grad=True) for _ in range(3))
    scale, mask, kernel = torch.zeros(2, 2, 70, requires_grad=True), lengths_mask([70, 41], 70), tiny_kernel(generator)
    call = (q, k, v, mask, scale, *kernel[1:], kernel.kind, causal, True)
    torch.library.opcheck(torch.ops.model_factory.linear_attention.default, call)


@pytest.mark.parametrize("causal", [False, True])
def test_exact_gradients_in_double_precision(causal):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 67, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    scale, kernel = torch.randn(1, 2, 67, generator=generator, dtype=torch.float64), tiny_kernel(generator)
    inputs = [x.requires_grad_() for x in (q, k, v, scale)]

    def attend(q, k, v, scale):
        return linear_attention(q, k, v, kernel, log_scale=scale, causal=causal)

    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


def test_chunked_fake_tensors_and_flops():
    with FakeTensorMode():
        core = LinearCore(linear_core("favor+").features.__class__(HEAD_DIM, NB_FEATURES))
        inputs = [torch.randn(2, 8, 8192, HEAD_DIM, requires_grad=True) for _ in range(3)]
        with FlopCounterMode(display=False) as counter:
            out = core(*inputs, causal=True)
        forward = counter.get_total_flops()
        assert out.shape == (2, 8, 8192, HEAD_DIM)
        assert forward / (2 * 8 * 8192) == pytest.approx(173e3, rel=0.01)
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert inputs[0].grad.shape == inputs[0].shape
        assert 2.3 < counter.get_total_flops() / forward < 2.5  # with recomputed features and states


def test_chunked_saves_only_border_states():
    core = linear_core("favor+", HEAD_DIM, NB_FEATURES)
    q, k, v = (torch.randn(1, 8, 2048, HEAD_DIM, requires_grad=True) for _ in range(3))
    kept = {}

    def keep(x):
        kept[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        core(q, k, v, causal=True)
    own = sum(kept.values()) - sum(4 * x.numel() for x in (q, k, v))
    features = 4 * 2 * 8 * 2048 * NB_FEATURES
    assert own < features / 3


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("causal", [False, True])
def test_chunked_compiles_without_graph_break(name, causal):
    torch._dynamo.reset()
    core = linear_core(name).train()
    compiled = torch.compile(core, backend="aot_eager", fullgraph=True)
    inputs, mask = [x.requires_grad_() for x in qkv(70, 70)], lengths_mask([70, 41], 70)
    before = {key: value.clone() for key, value in core.state_dict().items()}
    out = compiled(*inputs, key_mask=mask, causal=causal)
    after = {key: value.clone() for key, value in core.state_dict().items()}
    core.load_state_dict(before)
    wanted = core(*inputs, key_mask=mask, causal=causal)
    ours, theirs = (torch.autograd.grad(x.square().sum(), inputs) for x in (out, wanted))
    assert gap(out, wanted) < 1e-6
    assert max(map(gap, ours, theirs)) < 1e-5
    assert all(torch.allclose(after[key], value) for key, value in core.state_dict().items())


def test_chunked_buffers_work_in_any_mode_and_thread():
    core = linear_core("favor+")
    wanted = {n: expected(core, *qkv(n, n), causal=True) for n in (70, 150)}
    with torch.inference_mode():  # tensors of this mode could not be written to afterwards
        core(*qkv(150, 150), causal=True)
    with ThreadPoolExecutor(4) as pool:
        outs = [(n, pool.submit(core, *qkv(n, n), causal=True)) for n in [70, 150] * 10]
        assert max(gap(out.result(), wanted[n]) for n, out in outs) < 1e-5
    out = core(*[x.requires_grad_() for x in qkv(70, 70)], causal=True)
    kept = out.detach().clone()
    core(*qkv(150, 150, seed=1), causal=True)
    assert torch.equal(out, kept)
    out.sum().backward()
