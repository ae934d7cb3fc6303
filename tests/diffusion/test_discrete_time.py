"""Schedules of T steps, and D3PM's bound for every process."""

from itertools import pairwise

import pytest
import torch

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.discrete_time import D3pmLoss, DiscreteNoise, DiscreteSubsLoss, discrete_loss
from model_factory.diffusion.objectives.losses import SubsLoss
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, LogLinearNoise
from tests.oracles.diffusion_bounds import exact_bound
from tests.oracles.diffusion_toy import VOCABULARY, Toy
from tests.oracles.hybrid_toy import HybridToy

CURVES = ["even", "cosine", "linear", "quadratic"]


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_discrete_alpha_is_product_of_kept_fractions(curve: str, num_steps: int) -> None:
    schedule = DiscreteNoise(num_steps, curve)
    grid = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    alpha = schedule.alpha(grid)
    torch.testing.assert_close(alpha, schedule.table, atol=1e-12, rtol=0)
    assert float(alpha[0]) == 1
    assert bool((alpha.diff() < 0).all())
    times = torch.linspace(0.01, 0.99, 57, dtype=torch.float64)
    torch.testing.assert_close(schedule.inverse(schedule.sigma(times)), times, atol=1e-9, rtol=0)
    step = 1e-7
    inside = times[((times * num_steps) % 1 - 0.5).abs() < 0.4]
    slope = (schedule.sigma(inside + step) - schedule.sigma(inside - step)) / (2 * step)
    torch.testing.assert_close(schedule.rate(inside), slope, atol=1e-5, rtol=1e-5)


def test_discrete_even_curve_matches_d3pm_beta() -> None:
    count = 50
    beta = [1 / (count - i + 1) for i in range(1, count + 1)]
    kept = torch.cumprod(1 - torch.tensor(beta, dtype=torch.float64), 0)
    torch.testing.assert_close(DiscreteNoise(count).table[1:], kept, atol=1e-12, rtol=0)


@pytest.mark.parametrize("curve", ["linear", "quadratic"])
def test_discrete_beta_scales_with_number_of_steps(curve: str) -> None:
    """With T = 100 and the betas of T = 1000, alpha would end at 0.36, far from the all-masked start."""
    assert float(DiscreteNoise(100, curve).table[-1]) < 2e-3
    given = DiscreteNoise(100, curve, beta_start=1e-4, beta_end=0.02)
    assert float(given.table[-1]) > 0.3


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid"])
def test_11_gap_of_every_discrete_bound_falls_as_1_over_steps(name: str) -> None:
    pace = LogLinearNoise(0.0)
    if name == "hybrid":
        toy, process = HybridToy.drawn(7, 0.2), DiffusionProcess(*HybridGraph(VOCABULARY, 0.2).at_pace(pace))
    else:
        graph = AbsorbingGraph(VOCABULARY) if name == "absorbing" else UniformGraph(VOCABULARY)
        toy, process = Toy.random(7, name == "absorbing"), DiffusionProcess(graph, pace)
    gaps = []
    for steps in (16, 64, 256):
        grid = (((i + 1) / steps, 1 / steps) for i in range(steps))
        gaps.append(sum(exact_bound(toy, D3pmLoss(process, steps), toy.oracle, grid)) - toy.entropy)
    assert gaps[-1] > 0
    for early, late in pairwise(gaps):
        assert 2.5 < early / late < 4.6  # the singularity of hybrid noise at t = 0 slows convergence a little


def test_d3pm_under_masks_is_weighted_cross_entropy() -> None:
    process = DiffusionProcess(AbsorbingGraph(VOCABULARY), CosineNoise(1e-3))
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(64, 5, VOCABULARY + 1, generator=generator, dtype=torch.float64)
    x_0 = torch.randint(VOCABULARY, (64, 5), generator=generator)
    t = torch.randint(1, 9, (64,), generator=generator) / 8
    x_t = process.corrupt(x_0, t, generator)
    general, special = (loss(process, 8).diffusion(logits, x_t, x_0, t) for loss in (D3pmLoss, DiscreteSubsLoss))
    torch.testing.assert_close(general, special, atol=1e-12, rtol=1e-10)


def test_d3pm_first_step_of_certain_network_is_not_nan() -> None:
    """0 log 0 at t = 1 / T, where the posterior is the clean token itself."""
    process = DiffusionProcess(UniformGraph(VOCABULARY), DiscreteNoise(4))
    x_0 = torch.tensor([[0, 1, 2]])
    certain = torch.full((1, 3, 3), -torch.inf, dtype=torch.float64).scatter(-1, x_0[..., None], 0.0)
    for x_t in (x_0, torch.tensor([[1, 1, 0]])):
        loss = D3pmLoss(process, 4).diffusion(certain, x_t, x_0, torch.tensor([0.25], dtype=torch.float64))
        torch.testing.assert_close(loss, torch.zeros(1, 3, dtype=torch.float64))


def test_d3pm_number_of_steps_is_given_once() -> None:
    table = DiffusionProcess(AbsorbingGraph(3), DiscreteNoise(20))
    assert discrete_loss(table, None).num_steps == 20
    assert discrete_loss(DiffusionProcess(AbsorbingGraph(3), LogLinearNoise()), 30).num_steps == 30
    hybrid = DiffusionProcess(*HybridGraph(3).at_pace(DiscreteNoise(5)))
    assert discrete_loss(hybrid, None).num_steps == 5
    for process, count in ((table, 30), (DiffusionProcess(AbsorbingGraph(3), LogLinearNoise()), None)):
        with pytest.raises(SettingError, match="num_steps"):
            discrete_loss(process, count)


def test_discrete_schedule_fits_continuous_time_bound() -> None:
    """MDLM's bound with a tabulated schedule is the entropy too."""
    toy, steps = Toy.random(3, absorbing=True), 5
    objective = SubsLoss(DiffusionProcess(AbsorbingGraph(VOCABULARY), DiscreteNoise(steps, "even")))
    nodes, weights = torch.tensor([-0.5773502691896257, 0.5773502691896257]), torch.tensor([1.0, 1.0])
    times = [
        ((step + (float(node) + 1) / 2) / steps, float(weight) / 2 / steps)
        for step in range(steps)
        for node, weight in zip(nodes, weights, strict=True)
    ]
    assert sum(exact_bound(toy, objective, toy.oracle, iter(times))) == pytest.approx(toy.entropy, abs=1e-6)
