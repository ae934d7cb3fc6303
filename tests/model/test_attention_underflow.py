"""Denominators that underflow in float32: outputs and gradients are those of float64."""

import pytest
import torch

from model.attention.chunked import run
from model.attention.chunked.inputs import Inputs
from model.attention.chunked.op import linear_attention
from model.attention.cores import attend, initial_state, update
from tests.model.test_attention_core import expected, linear_core, qkv
from tests.model.tiny import gap, lengths_mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 30])
def test_underflow_gradients_agree_with_oracle(causal: bool, heads: int) -> None:
    """Thirty heads exceed one block."""
    core = linear_core("favor+")
    q, k, v = (part[:, :1].repeat(1, heads, 1, 1) for part in qkv(140, 140, std=40.0))
    q[0] /= 40  # the other row of the batch does not underflow
    k[0] /= 40
    mask = lengths_mask([140, 97], 140)
    inputs = Inputs(q, k, v, mask, None, core.features.kernel())
    out, denominators, _ = run.forward(inputs, is_causal=causal, keep=False)
    assert float(denominators[1].min()) < run.UNDERFLOW < float(denominators[0].min())
    leaves = [x.requires_grad_() for x in (q, k, v)]
    ours = core(*leaves, key_mask=mask, causal=causal)
    wanted = expected(core, *leaves, key_mask=mask, causal=causal)
    assert gap(ours, wanted) < 5e-6
    assert gap(out, wanted) < 5e-6
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(2))
    found, reference = (torch.autograd.grad((x * weight).sum(), leaves) for x in (ours, wanted))
    for mine, other in zip(found, reference, strict=True):
        assert gap(mine[0], other[0]) < 1e-4
        assert gap(mine[1], other[1]) < 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_log_scales_weight_keys_and_have_gradients(causal: bool) -> None:
    """A log scale is a factor exp(scale) of phi(k), as if the key were repeated that many times."""
    core = linear_core("relu")
    q, k, v = qkv(70, 70)
    scale = torch.randn(k.shape[:-1], generator=torch.Generator().manual_seed(3)).requires_grad_()
    kernel = core.features.kernel()
    out = linear_attention(q, k, v, kernel, log_scale=scale, causal=causal)
    phi = [(x @ kernel.q_weight.mT).relu().double() + 1e-3 for x in (q, k)]
    weights = phi[0] @ phi[1].mT * scale.double().exp().unsqueeze(-2)
    weights = weights.tril() if causal else weights
    wanted = weights @ v.double() / weights.sum(-1, keepdim=True)
    assert gap(out, wanted) < 1e-5
    found, reference = (torch.autograd.grad(x.square().sum(), scale)[0] for x in (out, wanted))
    assert gap(found, reference) < 1e-4
    with pytest.raises(ValueError, match="70 queries and 69 keys"):
        linear_attention(q, k[:, :, 1:], v[:, :, 1:], kernel, causal=True)


def test_recurrent_query_factor_cancels() -> None:
    """Also a factor beyond the range of exp, next to any row, and a state without keys."""
    generator = torch.Generator().manual_seed(0)
    log_q, log_k = (3 * torch.randn(2, 3, n, 6, generator=generator) for n in (5, 7))
    v = torch.randn(2, 3, 7, 4, generator=generator)
    empty = initial_state(2, 3, 6, 4, dtype=torch.float16, device=torch.device("cpu"))
    assert {part.dtype for part in empty} == {torch.float32}
    assert torch.equal(attend(empty, log_q), torch.zeros(2, 3, 5, 4))
    state = update(update(empty, log_k[:, :, :3], v[:, :, :3]), log_k[:, :, 3:] + 400, v[:, :, 3:])
    log_k = torch.cat([log_k[:, :, :3], log_k[:, :, 3:] + 400], 2).double()
    weights = torch.logsumexp(log_q.double().unsqueeze(-2) + log_k.unsqueeze(-3), -1).softmax(-1)
    assert gap(attend(state, log_q), weights @ v.double()) < 1e-5
    factors = 500 * torch.arange(5.0)[:, None] - 1000
    assert gap(attend(state, log_q + factors), weights @ v.double()) < 1e-4
