"""The hybrid process against the paper's formulas, and oracle test 6 for GIDD."""

import math

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.losses import SubsLoss, UdlmLoss
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import GiddLoss, HybridGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise, NoiseSchedule
from tests.oracles.diffusion_bounds import exact_bound, quadrature_at_both_ends
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY
from tests.oracles.hybrid_toy import HybridToy

CASES = [(0.1, 1.0), (0.2, 1.0), (0.5, 0.5), (0.3, 1.5), (0.2, 2.0)]
TIMES = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6], dtype=torch.float64)


def hybrid(pace: NoiseSchedule, p_uniform: float = 0.2, gamma: float = 1.0) -> DiffusionProcess:
    return DiffusionProcess(*HybridGraph(VOCABULARY, p_uniform, gamma).at_pace(pace))


@pytest.mark.parametrize(("p_uniform", "gamma"), CASES)
def test_hybrid_noise_matches_paper(p_uniform: float, gamma: float) -> None:
    process, toy = hybrid(LogLinearNoise(0.0), p_uniform, gamma), HybridToy.drawn(0, p_uniform, gamma)
    alpha, mask, other = toy.shares(TIMES)
    torch.testing.assert_close(process.schedule.alpha(TIMES), alpha, atol=1e-14, rtol=1e-12)
    noise = process.graph.noise(process.schedule.sigma(TIMES))
    torch.testing.assert_close(noise[:, -1], mask, atol=1e-13, rtol=1e-9)
    torch.testing.assert_close(noise[:, :-1].sum(-1), other, atol=1e-13, rtol=1e-9)
    half = process.graph.noise(process.schedule.sigma(torch.tensor([0.5], dtype=torch.float64)))[0]
    assert float(half[:-1].sum()) == pytest.approx(p_uniform)
    torch.testing.assert_close(process.schedule.inverse(process.schedule.sigma(TIMES)), TIMES, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("p_uniform", "gamma"), CASES)
def test_hybrid_noise_follows_rate_and_composes(p_uniform: float, gamma: float) -> None:
    graph = hybrid(LogLinearNoise(1e-3), p_uniform, gamma).graph
    sigma = torch.tensor([1e-3, 0.1, 0.7, 2.0, 6.0], dtype=torch.float64)
    weights, step = graph.noise_rate(sigma), 1e-5
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)
    slope = (graph.noise(sigma + step * sigma) - graph.noise(sigma - step * sigma)) / (2 * step * sigma[:, None])
    torch.testing.assert_close(slope + graph.noise(sigma), weights, atol=1e-7, rtol=1e-6)
    tokens = torch.arange(VOCABULARY)[:, None]
    for early, late in ((0.05, 0.4), (0.4, 2.0), (2.0, 5.0)):
        first, last = (torch.full((VOCABULARY,), level, dtype=torch.float64) for level in (early, late))
        states = torch.arange(graph.dim)[:, None]
        rise, level = (torch.full((graph.dim,), value, dtype=torch.float64) for value in (late - early, late))
        onwards = graph.transition_into(states, rise, level)[:, 0].T
        composed = graph.transition(tokens, first)[:, 0] @ onwards
        torch.testing.assert_close(composed, graph.transition(tokens, last)[:, 0], atol=1e-12, rtol=0)


def test_hybrid_samples_follow_noise_distribution() -> None:
    process = hybrid(LogLinearNoise(1e-3), 0.4)
    generator, count = torch.Generator().manual_seed(0), 200_000
    for t in (0.2, 0.8):
        times = torch.full((count,), t, dtype=torch.float64)
        drawn = process.corrupt(torch.ones(count, 1, dtype=torch.int64), times, generator)[:, 0]
        expected = process.graph.transition(torch.ones(1, 1, dtype=torch.int64), process.schedule.sigma(times[:1]))
        found = torch.bincount(drawn, minlength=process.graph.dim) / count
        deviation = (expected[0, 0] * (1 - expected[0, 0]) / count).sqrt()
        assert bool(((found - expected[0, 0]).abs() < 4 * deviation).all())


@pytest.mark.parametrize(
    ("pace", "p_uniform", "gamma"), [(CosineNoise(0.0), 0.2, 1.0), *((LogLinearNoise(0.0), *case) for case in CASES)]
)
def test_6_gidd_bound_is_the_entropy(pace: NoiseSchedule, p_uniform: float, gamma: float) -> None:
    toy, objective = HybridToy.drawn(4, p_uniform, gamma), GiddLoss(hybrid(pace, p_uniform, gamma))
    parts = exact_bound(toy, objective, toy.oracle, quadrature_at_both_ends(160, 8))
    assert sum(parts) == pytest.approx(toy.entropy, abs=1e-8)
    mean = exact_bound(toy, objective, toy.posterior_mean_oracle, quadrature_at_both_ends(60, 6))
    assert sum(mean) > toy.entropy + 2e-4


@pytest.mark.parametrize(("p_uniform", "gamma"), [(0.2, 1.0), (0.2, 2.0)])
def test_hybrid_prior_error_is_at_most_eps_log_n(p_uniform: float, gamma: float) -> None:
    """At eps = 1e-3 the prior counts kept tokens as uniform ones: at most eps log N nats per token."""
    toy, objective = HybridToy.drawn(4, p_uniform, gamma), GiddLoss(hybrid(LogLinearNoise(1e-3), p_uniform, gamma))
    parts = exact_bound(toy, objective, toy.oracle, quadrature_at_both_ends(100, 8))
    assert parts[1] > 0
    assert toy.entropy - 1e-8 < sum(parts) < toy.entropy + LENGTH * 1e-3 * math.log(VOCABULARY)


@pytest.mark.parametrize(
    "process",
    [
        DiffusionProcess(AbsorbingGraph(VOCABULARY), CosineNoise(1e-3)),
        DiffusionProcess(UniformGraph(VOCABULARY), LogLinearNoise(1e-3)),
        hybrid(LogLinearNoise(1e-3)),
        hybrid(GeometricNoise(1e-3, 9.0), 0.4, 1.5),
    ],
)
def test_6_gidd_matches_formula_of_paper(process: DiffusionProcess) -> None:
    graph, generator = process.graph, torch.Generator().manual_seed(5)
    logits = torch.randn(300, 2, graph.dim, generator=generator, dtype=torch.float64)
    x_0 = torch.randint(VOCABULARY, (300, 2), generator=generator)
    t = 0.02 + 0.98 * torch.rand(300, generator=generator, dtype=torch.float64)
    x_t = process.corrupt(x_0, t, generator)
    sigma = process.schedule.sigma(t)
    noise, alpha = graph.noise(sigma)[:, None], torch.exp(-sigma)[:, None, None]
    true = alpha * torch.nn.functional.one_hot(x_0, graph.dim) + noise
    model = alpha * graph.clean_log_probs(logits, x_t).exp() + noise
    at = (true.gather(-1, x_t[..., None]) / model.gather(-1, x_t[..., None]))[..., 0]
    divergence = torch.special.xlogy(true, torch.where(true > 0, true / model, 1.0)).sum(-1)
    rise = _noise_gain(process, t).gather(-1, x_t) / true.gather(-1, x_t[..., None])[..., 0]
    expected = rise * (divergence + at - at.log() - 1)
    torch.testing.assert_close(GiddLoss(process).diffusion(logits, x_t, x_0, t), expected, atol=1e-6, rtol=1e-6)
    peer = SubsLoss if graph.absorbing else UdlmLoss if graph.mask_token is None else GiddLoss
    found, other = (loss(process).diffusion(logits, x_t, x_0, t) for loss in (GiddLoss, peer))
    torch.testing.assert_close(found, other, atol=1e-10, rtol=1e-10)


def _noise_gain(process: DiffusionProcess, t: Tensor) -> Tensor:
    """Return d/dt (beta pi) - (alpha' / alpha) (beta pi), [B, dim], by finite differences."""
    step = 1e-6

    def noise(at: Tensor) -> Tensor:
        return process.graph.noise(process.schedule.sigma(at))

    low, high = (t - step).clamp_min(0), (t + step).clamp_max(1)
    slope = (noise(high) - noise(low)) / (high - low)[:, None]
    return slope + process.schedule.rate(t)[:, None] * noise(t)


@pytest.mark.parametrize(("p_uniform", "gamma"), [(0.0, 1.0), (1.0, 1.0), (0.1, 0.0), (0.1, 2.5)])
def test_hybrid_refuses_invalid_settings(p_uniform: float, gamma: float) -> None:
    with pytest.raises(SettingError):
        HybridGraph(VOCABULARY, p_uniform, gamma)


def test_6_rao_blackwellised_form_is_equal() -> None:
    general, own = Graph(5, torch.ones(5, dtype=torch.float64)), UniformGraph(5)
    generator = torch.Generator().manual_seed(7)
    x_0, x_t = (torch.randint(5, (400, 3), generator=generator) for _ in range(2))
    x_t = torch.where(torch.rand(x_0.shape, generator=generator) < 0.5, x_0, x_t)
    sigma = 10 ** (6 * torch.rand(400, generator=generator, dtype=torch.float64) - 5)
    log_score = torch.randn(400, 3, 5, generator=generator, dtype=torch.float64)
    found, expected = (graph.score_entropy(log_score, sigma, x_t, x_0) for graph in (own, general))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
