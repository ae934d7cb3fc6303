"""Initial values and dtypes of feature maps, draws, recurrent states and rotations."""

import sys
from importlib.abc import MetaPathFinder
from random import Random

import pytest
import torch
from torch import Tensor, nn

from model import core_registry
from model.attention.cores import attend, initial_state, update
from model.attention.feature_maps import FeatureMap
from model.attention.feature_redraw import FeatureRedraw, broadcast_seed, orthogonal_projections, redraw_features
from model.attention.multi_head import MultiHeadAttention
from model.attention.rotary import rotary_angles, rotation_at
from model.core_registry import CoreEntry, core_entry, register_attention
from model.feature_registry import build_feature_map, feature_map_entry
from model_factory.yaml_config.registry import Registry
from tests.model.test_attention_core import MAPS, linear_core, qkv
from tests.model.tiny import gap, params

HEAD_DIM, NB_FEATURES = 8, 12


def stack(*names: str) -> nn.ModuleList:
    return nn.ModuleList(build_feature_map(name, HEAD_DIM, NB_FEATURES, 2) for name in names)


@pytest.mark.parametrize("name", MAPS)
def test_feature_map_attributes(name: str) -> None:
    made, alone = (
        build_feature_map(name, HEAD_DIM, NB_FEATURES, 2),
        feature_map_entry(name).build(HEAD_DIM, NB_FEATURES),
    )
    nb_features = HEAD_DIM if name == "elu" else NB_FEATURES
    assert (made.head_dim, made.nb_features, made.num_heads) == (HEAD_DIM, nb_features, 2)
    assert (alone.head_dim, alone.nb_features, alone.num_heads) == (HEAD_DIM, nb_features, 1)
    q, k, _ = qkv(3, 5)
    features, scale = made.key(k)
    assert made.query(q).shape == (2, 2, 3, nb_features)
    assert (features.shape, scale.shape) == ((2, 2, 5, nb_features), (2, 2, 5))


class Plain(FeatureMap):
    """Custom map without further arguments."""

    def query(self, q: Tensor) -> Tensor:
        return q.exp()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        return k.exp(), k.mean(-1)


def test_custom_feature_map_defaults() -> None:
    made = Plain(HEAD_DIM, NB_FEATURES)
    assert (made.head_dim, made.nb_features, made.num_heads) == (HEAD_DIM, NB_FEATURES, 1)
    assert made.kernel() is None
    q, k, _ = qkv(3, 5)
    torch.testing.assert_close(made.log_query(q), q)
    torch.testing.assert_close(made.log_key(k), k + k.mean(-1, keepdim=True))


@pytest.mark.parametrize("name", ["favor++", "favor#"])
def test_moments_start_at_unit_variance(name: str) -> None:
    for heads in (1, 2):
        moments = build_feature_map(name, HEAD_DIM, NB_FEATURES, heads).moments
        wanted = torch.tensor([[1.0] * HEAD_DIM] * 2 + [[0.0] * HEAD_DIM] * 2)
        assert torch.equal(moments, wanted.expand(heads, 4, HEAD_DIM))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_average_rows_tokens_and_head_groups(masked: bool, dtype: torch.dtype) -> None:
    """Four query heads, two for each key head: means of q^2, k^2, q and k, of k at visible keys alone."""
    made, generator = build_feature_map("favor++", 3, NB_FEATURES, 2).to(dtype), torch.Generator().manual_seed(0)
    q, k = (torch.randn(3, 4, tokens, 3, generator=generator) for tokens in (5, 6))
    mask = torch.rand(3, 6, generator=generator) > 0.4 if masked else None
    wanted = torch.empty(2, 4, 3)
    for head in range(2):
        of_q = torch.cat([q[row, 2 * head + shared] for row in range(3) for shared in range(2)])
        seen = [torch.ones(6).bool() if mask is None else mask[row] for row in range(3)]
        of_k = torch.cat([k[row, 2 * head + shared][seen[row]] for row in range(3) for shared in range(2)])
        wanted[head] = torch.stack([of_q.square().mean(0), of_k.square().mean(0), of_q.mean(0), of_k.mean(0)])
    before = made.moments.clone().float()
    made.observe(q, k, mask)
    assert made.moments.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert gap(made.moments.float(), 0.95 * before + 0.05 * wanted) < tolerance
    made.fit(q, k, mask)
    assert made.moments.dtype == dtype
    assert gap(made.moments.float(), wanted) < tolerance


@pytest.mark.parametrize("name", ["favor+", "favor++", "favor#", "relu"])
def test_kernel_of_a_half_model_is_float32(name: str) -> None:
    """Also from buffers that are rounded to half precision."""
    half = linear_core(name, HEAD_DIM, NB_FEATURES).features.bfloat16()
    wide = build_feature_map(name, HEAD_DIM, NB_FEATURES, 2)
    wide.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    for found, wanted in zip(half.kernel()[1:], wide.kernel()[1:], strict=True):
        assert found is wanted is None or (found.dtype == torch.float32 and torch.equal(found, wanted))
    k = qkv(3, 5)[1]
    for dtype in (torch.float32, torch.float64):
        assert wide.log_key(k.to(dtype)).dtype == wide.log_query(k.to(dtype)).dtype == dtype
    assert gap(wide.log_key(k), wide.log_key(k.double())) < 1e-6


@pytest.mark.parametrize("interval", [1, 2, None])
def test_draw_depends_on_seed_layer_and_count(interval: int | None) -> None:
    """Fitted maps draw in pairs, others do not; the state is seed, draws so far, steps since the last."""
    torch.manual_seed(2**62 + 5)
    maps = stack("favor+", "favor++", "elu", "relu", "favor#")
    redraw = FeatureRedraw(maps, interval=interval)
    random = [maps[place] for place in (0, 1, 3, 4)]
    pairs = [False, True, False, True]

    def check(draws: int, steps: int) -> None:
        assert redraw.state.tolist() == [2**62 + 5, draws, steps]
        for index, (features, in_pairs) in enumerate(zip(random, pairs, strict=True)):
            seed = Random(f"{2**62 + 5}/{index}/{draws - 1}").getrandbits(63)
            wanted = orthogonal_projections(NB_FEATURES, HEAD_DIM, seed, in_pairs=in_pairs)
            assert torch.equal(features.projection_matrix, wanted)

    check(1, 0)
    wanted = {
        1: [(1, 1), (2, 1), (3, 1)],
        2: [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)],
        None: [(1, 0), (1, 0)],
    }[interval]
    for draws, steps in wanted:
        redraw.count_step()
        check(draws, steps)
    redraw.redraw()
    check(wanted[-1][0] + 1, 0)


@pytest.mark.parametrize("missing", ["distutils", "performer_pytorch"])
def test_missing_distutils_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 lacks distutils, and setuptools has it; other missing modules keep their error."""

    class Without(MetaPathFinder):
        def find_spec(self, fullname: str, path: object, target: object = None) -> None:
            if fullname == "performer_pytorch.performer_pytorch":
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(sys.modules, "performer_pytorch.performer_pytorch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    with pytest.raises(ImportError) as caught:
        orthogonal_projections(4, 2, 0)
    assert ("pip install setuptools" in str(caught.value)) == (missing == "distutils")
    assert isinstance(caught.value, ModuleNotFoundError) == (missing != "distutils")


@pytest.mark.parametrize("nb_features", [1, 8, 11, 12])
def test_projection_pairs_are_negatives(nb_features: int) -> None:
    half = (nb_features + 1) // 2
    whole = orthogonal_projections(nb_features, HEAD_DIM, 3, in_pairs=True)
    first = orthogonal_projections(half, HEAD_DIM, 3)
    assert torch.equal(whole, torch.cat([first, -first])[:nb_features])
    assert orthogonal_projections(nb_features, HEAD_DIM, 3).shape == whole.shape == (nb_features, HEAD_DIM)


def test_redraw_needs_in_pairs_for_each_projection() -> None:
    state = torch.tensor([0, 0, 0])
    with pytest.raises(ValueError, match="zip"):
        redraw_features([torch.zeros(4, 2)], [True, False], state, 0)


@pytest.mark.parametrize("seed", [0, 126, 2**63 - 1, 2**63, 2**64 - 2])
def test_broadcast_seed_is_the_global_seed_as_int64(seed: int) -> None:
    torch.manual_seed(seed)
    assert broadcast_seed() == seed % 2**63


def test_custom_core_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_registry, "CORES", Registry("attention type", "no_such_group"))

    def build(params: object) -> nn.Module:
        return nn.Identity()

    assert register_attention("own")(build) is build
    assert core_entry("own") == CoreEntry(build, "either", uses_features=False)
    register_attention("other", direction="causal", uses_features=True)(build)
    assert core_entry("other") == CoreEntry(build, "causal", uses_features=True)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_qk_norm_selects_rms_norm(qk_norm: bool) -> None:
    made = MultiHeadAttention(params(d_model=16, num_heads=4, num_layers=1, qk_norm=qk_norm, num_kv_heads=2))
    kind = nn.RMSNorm if qk_norm else nn.Identity
    assert type(made.q_norm) is type(made.k_norm)
    assert isinstance(made.q_norm, kind)
    shapes = {"to_q.weight": (16, 16), "to_k.weight": (8, 16), "to_v.weight": (8, 16)}
    shapes |= {"to_out.weight": (16, 16), "to_out.bias": (16,)}
    shapes |= {"q_norm.weight": (4,), "k_norm.weight": (4,)} if qk_norm else {}
    assert {name: tuple(parameter.shape) for name, parameter in made.named_parameters()} == shapes


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_recurrent_empty_state_shapes_and_dtype(dtype: torch.dtype, wide: torch.dtype) -> None:
    state = initial_state(2, 3, 5, 4, dtype=dtype, device=torch.device("cpu"))
    assert [tuple(part.shape) for part in state] == [(2, 3, 5, 4), (2, 3, 5), (2, 3, 5)]
    assert all(part.dtype == wide for part in state)
    assert not bool(state.sums.any() | state.totals.any())
    assert bool((state.peak < -1e29).all())


def test_recurrent_feature_scales_are_independent() -> None:
    """Features of e^900 and of e^-900, different in each row and head: queries may select either."""
    generator = torch.Generator().manual_seed(0)
    log_k = torch.randn(2, 2, 6, 4, generator=generator) + torch.tensor([900.0, -900.0, 0.0, 50.0])
    log_k[1], log_k[:, 1] = log_k[1] - 300, log_k[:, 1] + 200
    v = torch.randn(2, 2, 6, 3, generator=generator)
    state = initial_state(2, 2, 4, 3, dtype=torch.float32, device=torch.device("cpu"))
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        state = update(state, log_k[:, :, part], v[:, :, part])
    assert torch.equal(state.peak, log_k.amax(2))
    for feature in range(4):
        log_q = torch.full((2, 2, 1, 4), -3000.0)
        log_q[..., feature] = 0.0
        wanted = log_k[..., feature].double().softmax(-1).unsqueeze(-2) @ v.double()
        torch.testing.assert_close(attend(state, log_q).double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("base", [None, 500.0])
def test_rotary_angles_are_float32(default: torch.dtype, base: float | None) -> None:
    """Pair i of D / 2 rotates by n base^(-2 i / D) at position n; the default base is 10,000."""
    options = {} if base is None else {"base": base}
    places = torch.tensor([[0, 3], [70, 1000]])
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        cos, sin = rotation_at(places, 6, **options)
        straight = rotary_angles(1001, 6, torch.device("cpu"), **options)
    finally:
        torch.set_default_dtype(before)
    frequencies = torch.tensor([(base or 10_000.0) ** (-2 * pair / 6) for pair in range(3)], dtype=torch.float64)
    angle = places.double()[..., None] * frequencies
    for found, wanted, all_places in ((cos, angle.cos(), straight[0]), (sin, angle.sin(), straight[1])):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4)
        assert torch.equal(found, all_places[places])
