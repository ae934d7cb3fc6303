"""Attention cores against the quadratic float64 oracle."""

import pytest
import torch

from model.attention import feature_maps
from model.attention import feature_maps as fitted_features
from model.attention.cores import LinearCore, SoftmaxCore
from model.attention.feature_redraw import orthogonal_projections
from model.feature_registry import build_feature_map
from tests.model.tiny import gap
from tests.oracles import attention as oracle

CLASSES = {
    "favor+": feature_maps.FavorPlus,
    "favor++": fitted_features.FavorPlusPlus,
    "favor#": fitted_features.FavorSharp,
    "relu": feature_maps.ReluFeatures,
    "elu": feature_maps.EluFeatures,
}
MAPS = list(CLASSES)


def linear_core(name, head_dim=8, nb_features=24):
    features = build_feature_map(name, head_dim, nb_features, 2)
    if hasattr(features, "projection_matrix"):
        features.projection_matrix.copy_(orthogonal_projections(nb_features, head_dim, 3))
    if hasattr(features, "moments"):  # different in each head and coordinate
        spread = torch.rand(features.moments.shape, generator=torch.Generator().manual_seed(4)) + 0.5
        features.moments.copy_(spread * torch.tensor([1.0, 1.0, 0.3, -0.2])[:, None])
    return LinearCore(features).eval()


def qkv(queries, keys, *, std=1.0, head_dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, std), (keys, std), (keys, 1.0)]
    return [torch.randn(2, 2, n, head_dim, generator=generator) * scale for n, scale in shapes]


def expected(core, q, k, v, **kwargs):
    if isinstance(core, SoftmaxCore):
        return oracle.softmax_attention(q, k, v, **kwargs)
    name = next(n for n in MAPS if type(core.features) is CLASSES[n])
    projection, moments = (getattr(core.features, part, None) for part in ("projection_matrix", "moments"))
    return oracle.linear_attention(q, k, v, feature_map=name, projection=projection, moments=moments, **kwargs)


def cores():
    return [SoftmaxCore(), *map(linear_core, MAPS)]


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize(
    ("causal", "queries", "keys"),
    [(causal, n, n) for causal in (False, True) for n in (1, 64, 65, 150)] + [(False, 5, 70), (False, 70, 5)],
)
def test_agrees_with_oracle(core, causal, queries, keys):
    q, k, v = qkv(queries, keys)
    mask = torch.rand(2, keys, generator=torch.Generator().manual_seed(1)) > 0.3
    for key_mask in (None, mask):
        out = core(q, k, v, key_mask=key_mask, causal=causal)
        assert gap(out, expected(core, q, k, v, key_mask=key_mask, causal=causal)) < 3e-6


@pytest.mark.parametrize("std", [0.5, 2.0, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("name", ["favor+", "favor#"])
@pytest.mark.parametrize("causal", [False, True])
def test_favor_agrees_at_large_scales(std, name, causal):
    core = linear_core(name, 16, 64)
    q, k, v = qkv(130, 130, std=std, head_dim=16)
    assert gap(core(q, k, v, causal=causal), expected(core, q, k, v, causal=causal)) < 5e-6


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_agree_with_oracle(core, causal):
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(1)) > 0.3
    inputs = [x.requires_grad_() for x in qkv(80, 80, std=2.0)]
    weight = torch.randn(2, 2, 80, 8, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((core(*inputs, key_mask=mask, causal=causal) * weight).sum(), inputs)
    reference = expected(core, *inputs, key_mask=mask, causal=causal)
    theirs = torch.autograd.grad((reference * weight).sum(), inputs)
    assert max(map(gap, ours, theirs)) < 1e-5


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize("causal", [False, True])
def test_rows_without_a_key_are_zero(core, causal):
    q, k, v = (x.requires_grad_() for x in qkv(70, 70))
    mask = torch.ones(2, 70, dtype=torch.bool)
    mask[0], mask[1, :66] = False, False
    out = core(q, k, v, key_mask=mask, causal=causal)
    assert (out[0] == 0).all()
    assert (out[1, :, :66] == 0).all() == causal
    assert (out[1, :, 66:] != 0).any()
    for gradient in torch.autograd.grad(out.square().sum(), [q, k, v]):
        assert gradient.isfinite().all()
        assert (gradient[0] == 0).all()


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize("factor", [-4.0, 0.0, 1e-3, 4.0, 100.0, 1e4, 1e12])
def test_no_future_key_reaches_an_earlier_row(core, factor):
    q, k, v = qkv(100, 100)
    before = core(q, k, v, causal=True)
    k, v = k.clone(), v.clone()
    k[:, :, 90:] *= factor
    v[:, :, 90:] *= factor
    after = core(q, k, v, causal=True)
    assert gap(after[:, :, :90], before[:, :, :90]) == 0
    assert gap(after[:, :, 90:], before[:, :, 90:]) > 1e-2


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize("std", [1.0, 8.0])
def test_future_token_does_not_change_earlier_rows(core, std):
    q, k, v = qkv(140, 140, std=std)
    before = core(q, k, v, causal=True)
    for place in (1, 63, 64, 65, 139):
        changed = [x.clone() for x in (q, k, v)]
        for x, factor in zip(changed, (-3.0, 50.0, 1e3), strict=True):
            x[:, :, place] *= factor
        assert gap(core(*changed, causal=True)[:, :, :place], before[:, :, :place]) <= 1e-6


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("std", [1.0, 8.0])
def test_padded_equals_unpadded(core, causal, std):
    q, k, v = qkv(100, 100, std=std)
    mask = torch.arange(160)[None].expand(2, -1) < 100
    padded = [torch.cat([x, 30 * torch.randn(2, 2, 60, 8)], 2).requires_grad_() for x in (q, k, v)]
    alone = [x.requires_grad_() for x in (q, k, v)]
    out, wanted = core(*padded, key_mask=mask, causal=causal)[:, :, :100], core(*alone, causal=causal)
    assert gap(out, wanted) < 1e-5
    ours, theirs = (torch.autograd.grad(x.square().sum(), xs) for x, xs in ((out, padded), (wanted, alone)))
    for ours_of, theirs_of in zip(ours, theirs, strict=True):
        assert gap(ours_of[:, :, :100], theirs_of) < 1e-4
        assert (ours_of[:, :, 100:] == 0).all()


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision(core, dtype, bound, causal):
    q, k, v = (x.to(dtype) for x in qkv(100, 100, std=2.0))
    out = core(q, k, v, causal=causal)
    assert out.dtype == dtype
    assert gap(out, expected(core, q, k, v, causal=causal)) < bound


def test_linear_core_is_not_rounded_by_autocast():
    core = linear_core("favor+")
    q, k, v = qkv(100, 100)
    wanted = core(q, k, v, causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(core(q, k, v, causal=True), wanted)


@pytest.mark.parametrize("core", cores(), ids=["softmax", *MAPS])
def test_row_without_a_visible_key_is_zero(core):
    q, k, v = qkv(3, 3)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = core(q, k, v, key_mask=mask, causal=False)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    torch.testing.assert_close(out[:1], core(q[:1], k[:1, :, :2], v[:1, :, :2], causal=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_float32_state_takes_bfloat16_calls(name):
    core = linear_core(name)
    q, k, v = (part.bfloat16() for part in qkv(3, 3))
    state = core.update(core.initial_state(k.float()), k, v)
    assert state.sums.dtype == torch.float32
    read = core.attend(state, q)
    assert read.dtype == torch.bfloat16
    whole = core(q, k, v, causal=False)
    assert whole.dtype == torch.bfloat16
    torch.testing.assert_close(read, whole, rtol=0.02, atol=0.02)
    exact = core.attend(core.update(core.initial_state(k.float()), k.float(), v.float()), q.float())
    torch.testing.assert_close(read.float(), exact, rtol=0.01, atol=0.01)
