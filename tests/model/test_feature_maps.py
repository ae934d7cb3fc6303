"""Feature maps: their estimate of softmax, and the statistics of the fitted ones."""

import math

import pytest
import torch

from model.attention.cores import LinearCore
from model.attention.feature_maps import least_variance, make_feature_map
from model.attention.feature_redraw import orthogonal_projections
from model.feature_registry import build_feature_map
from tests.model import tiny
from tests.model.test_attention_core import linear_core, qkv
from tests.model.tiny import gap, lengths_mask
from tests.oracles import attention as oracle

FITTED = ["favor++", "favor#"]


@pytest.mark.parametrize("name", ["favor+", *FITTED])
def test_feature_map_is_unbiased_for_softmax(name):
    core, (q, k, _) = linear_core(name), qkv(3, 3, std=0.7)
    core.features.projection_matrix = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(0))
    log_kernel = core.features.log_query(q).unsqueeze(-2) + core.features.log_key(k).unsqueeze(-3)
    estimate = log_kernel.double().logsumexp(-1).softmax(-1)
    assert gap(estimate, (q @ k.mT / 8**0.5).softmax(-1)) < 0.02


@pytest.mark.parametrize(("square", "dimensions"), [(1e-3, 1), (0.3, 1), (16.0, 64), (1e3, 8)])
def test_fitted_a_minimises_the_variance(square, dimensions):
    assert float(least_variance(torch.tensor(square).double(), dimensions)) == pytest.approx(
        oracle.best_a(square, dimensions), rel=1e-5, abs=1e-9
    )


def error(name, q, k, v, nb_features):
    """Return the mean over five draws of the relative error against exact softmax attention."""
    wanted, errors = oracle.softmax_attention(q, k, v, causal=False), []
    for seed in range(5):
        features = build_feature_map(name, q.shape[-1], nb_features, q.shape[1])
        matrix = orthogonal_projections(nb_features, q.shape[-1], seed, in_pairs=features.in_pairs)
        features.projection_matrix.copy_(matrix)
        if name in FITTED:
            features.fit(q, k)
        errors.append(gap(LinearCore(features).eval()(q, k, v, causal=False), wanted))
    return sum(errors) / len(errors)


def test_errors_against_softmax():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, 512, 64, generator=generator) * std for std in (0.5, 0.5, 1.0))
    errors = {name: error(name, q, k, v, 256) for name in ["favor+", *FITTED]}
    assert errors["favor++"] <= 0.35 < errors["favor+"]
    stretch = torch.logspace(-0.5, 0.5, 64)
    errors = {name: error(name, q * stretch, k / stretch, v, 512) for name in ["favor+", *FITTED]}
    assert errors["favor#"] < 0.35 < 1 < min(errors["favor+"], errors["favor++"])


@pytest.mark.parametrize("name", FITTED)
def test_moments_change_only_in_training(name):
    core, (q, k, v) = linear_core(name), qkv(50, 50, std=3.0)
    before = core.features.moments.clone()
    core(q, k, v, causal=True)
    assert torch.equal(core.features.moments, before)
    core.train()
    mask = lengths_mask([50, 20], 50)
    for _ in range(200):
        core(q, k, v, key_mask=mask, causal=True)
    kept = torch.cat([k[0], k[1, :, :20]], 1)  # [H, real tokens, D]
    assert gap(core.features.moments[:, 1], kept.square().mean(1)) < 1e-3
    assert gap(core.features.moments[:, 3], kept.mean(1)) < 1e-2
    assert gap(core.features.moments[:, 0], q.square().mean((0, 2))) < 1e-3
    learned = core.features.moments.clone()
    core.features.fit(q, k, mask)
    assert gap(learned, core.features.moments) < 1e-3


@pytest.mark.parametrize("name", FITTED)
def test_moments_are_updated_after_the_step(name):
    core, (q, k, v) = linear_core(name).train(), qkv(70, 70)
    state = {key: value.clone() for key, value in core.state_dict().items()}
    before = core(q, k, v, causal=True)
    core.load_state_dict(state)
    after = core(q, torch.cat([k[:, :, :60], 30 * k[:, :, 60:]], 2), v, causal=True)
    assert torch.equal(after[:, :, :60], before[:, :, :60])


@pytest.mark.parametrize("name", FITTED)
def test_moments_of_each_key_value_head(name):
    model = tiny.decoder(num_heads=4, num_kv_heads=2, attention_type="causal_linear", feature_map=name, vocab_size=11)
    core = model.layers[0].self_attention.sublayer.core
    assert core.features.moments.shape == (2, 4, 4)
    model.train()(torch.randint(11, (2, 9)))
    assert not torch.equal(core.features.moments[0], core.features.moments[1])
    ids = torch.randint(11, (1, 70))
    model.eval()
    out = model.generate(ids, 3, temperature=0.0)
    whole = model(out[:, :-1])[:, -3:].argmax(-1)
    assert torch.equal(out[:, -3:], whole)


def test_feature_map_number_of_features():
    assert make_feature_map(tiny.params(attention_type="linear")).nb_features == int(8 * math.log(8))
    assert make_feature_map(tiny.params(attention_type="linear", feature_map="elu")).nb_features == 8
    with pytest.raises(ValueError, match="feature_map elu has a fixed number of features"):
        tiny.params(attention_type="linear", feature_map="elu", nb_features=32)


def test_fitted_map_projections_are_antithetic():
    model = tiny.encoder(attention_type="linear", feature_map="favor++", nb_features=13)
    matrix = model.layers[0].self_attention.sublayer.core.features.projection_matrix
    assert torch.equal(matrix[7:], -matrix[:6])
