"""Random features: their range and scales, and the draws of their projections."""

from random import Random

import pytest
import torch
from torch import nn

from model.attention.chunked.features import Kernel, expand_heads
from model.attention.chunked.op import linear_attention
from model.attention.feature_redraw import FeatureRedraw, broadcast_seed, orthogonal_projections, redraw_features
from model.feature_registry import build_feature_map
from tests.model.test_attention_core import linear_core, qkv
from tests.oracles.attention import LOG_KERNELS

MAPS = ["favor+", "favor++", "favor#", "relu", "elu"]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("std", [0.5, 30.0])
def test_features_are_at_most_one_in_units_of_scale(name: str, std: float) -> None:
    """The kernel is query . key exp(scale), up to a factor for each query, at every size."""
    features = linear_core(name).features
    q, k, _ = (x.double() for x in qkv(6, 9, std=std))
    of_q, (of_k, scale) = features.query(q), features.key(k)
    assert of_q.shape == (2, 2, 6, features.nb_features)
    assert of_k.shape == (2, 2, 9, features.nb_features)
    assert scale.shape == (2, 2, 9)
    if name != "elu":
        assert torch.equal(of_q.amax(-1), torch.ones(2, 2, 6).double())
        assert torch.equal(of_k.amax(-1), torch.ones(2, 2, 9).double())
    found = torch.logsumexp(features.log_query(q).unsqueeze(-2) + features.log_key(k).unsqueeze(-3), -1)
    parts = [getattr(features, part) for part in ("projection_matrix", "moments") if hasattr(features, part)]
    wanted = LOG_KERNELS[name](q, k, *(parts or [None]))
    weights, expected = found.softmax(-1), wanted.softmax(-1)
    torch.testing.assert_close(weights, expected, rtol=1e-4 * max(1.0, std**2 / 10), atol=1e-5)
    direct = of_q.log().unsqueeze(-2) + of_k.log().unsqueeze(-3) + scale[..., None, :, None]
    torch.testing.assert_close(torch.logsumexp(direct, -1).softmax(-1), weights, rtol=1e-6, atol=1e-12)


def test_feature_scales_need_no_gradient() -> None:
    features = linear_core("favor+").features
    q, k, _ = (x.requires_grad_() for x in qkv(3, 3))
    assert not features.key(k)[1].requires_grad
    (slope,) = torch.autograd.grad(features.query(q).sum(), q)
    logits = features.log_query(q)
    (wanted,) = torch.autograd.grad((logits - logits.detach().amax(-1, keepdim=True)).exp().sum(), q)
    torch.testing.assert_close(slope, wanted)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(build_feature_map(name, 4, 6, 1) for name in ("favor+", "elu", "favor++"))


def drawn(seed: int, draw: int) -> list[torch.Tensor]:
    """Return the projections of two maps after a draw: the first plain, the second in pairs."""
    mixed = [Random(f"{seed}/{index}/{draw}").getrandbits(63) for index in range(2)]
    return [orthogonal_projections(6, 4, mixed[0]), orthogonal_projections(6, 4, mixed[1], in_pairs=True)]


def test_draws_are_counted_and_follow_the_seed() -> None:
    torch.manual_seed(2**63 + 5)
    assert broadcast_seed() == 5
    layers = Layers()
    owner = FeatureRedraw(layers, interval=3)
    held = [layers.maps[0].projection_matrix, layers.maps[2].projection_matrix]
    assert owner.state.tolist() == [5, 1, 0]
    draw, steps = 1, 0
    for _ in range(8):
        for found, wanted in zip(held, drawn(5, draw - 1), strict=True):
            assert torch.equal(found, wanted)
        owner.count_step()
        if steps == 3:
            draw, steps = draw + 1, 0
        steps += 1
        assert owner.state.tolist() == [5, draw, steps]
    owner.redraw()
    assert owner.state.tolist() == [5, draw + 1, 0]
    never = FeatureRedraw(Layers(), interval=None)
    before = never.state.clone()
    never.count_step()
    assert torch.equal(never.state, before)


def test_redraw_operator_keeps_the_global_generator() -> None:
    state, matrix = torch.tensor([9, 4, 2]), torch.zeros(6, 4)
    torch.manual_seed(1)
    redraw_features([matrix], [False], state, 3)
    assert (state.tolist(), matrix.abs().sum().item()) == ([9, 4, 3], 0.0)
    redraw_features([matrix], [False], state, 3)
    assert state.tolist() == [9, 5, 1]
    wanted = orthogonal_projections(6, 4, Random("9/0/4").getrandbits(63))
    assert torch.equal(matrix, wanted)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))


def test_projections_are_orthogonal_and_paired() -> None:
    plain = orthogonal_projections(10, 4, 3)
    for first in (0, 4):
        gram = plain[first : first + 4] @ plain[first : first + 4].T
        assert float((gram - gram.diag().diag()).abs().max()) < 1e-5
    for count in (6, 7):
        half = (count + 1) // 2
        paired = orthogonal_projections(count, 4, 3, in_pairs=True)
        assert paired.shape == (count, 4)
        assert torch.equal(paired[half:], -paired[: count - half])
    assert not torch.equal(plain, orthogonal_projections(10, 4, 4))


def test_expand_heads_repeats_kernel_parts_by_group() -> None:
    part = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(expand_heads(part, 4), torch.stack([part[0], part[0], part[1], part[1]]))
    assert expand_heads(part, 2) is part
    assert expand_heads(part[:1], 4).shape == (1, 3, 2)
    core = linear_core("favor#")  # two key-value heads with different moments, and four query heads
    kernel = core.features.kernel()
    q, k, v = (x.repeat_interleave(2, 1) for x in qkv(70, 70))
    out = linear_attention(q, k, v, kernel, causal=True)
    alone = [
        linear_attention(
            q[:, [i]], k[:, [i]], v[:, [i]], Kernel("exp", *(x[i // 2 :][:1] for x in kernel[1:])), causal=True
        )
        for i in range(4)
    ]
    torch.testing.assert_close(out, torch.cat(alone, 1), rtol=1e-5, atol=1e-5)
