"""Oracle tests 4 to 7 and 11: with the oracle the bounds are the entropy, and no network is below it."""

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.objectives.discrete_time import DiscreteSubsLoss
from model_factory.diffusion.objectives.losses import ScoreEntropyLoss, SubsLoss, UdlmLoss
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation, X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import (
    CosineNoise,
    GeometricNoise,
    LinearNoise,
    LogLinearNoise,
    NoiseSchedule,
)
from tests.oracles.diffusion_bounds import exact_bound, quadrature
from tests.oracles.diffusion_toy import VOCABULARY, Toy

ABSORBING, UNIFORM = AbsorbingGraph(VOCABULARY), UniformGraph(VOCABULARY)
SMALL_START = GeometricNoise(1e-6, 30.0)


def absorbing(schedule: NoiseSchedule) -> DiffusionProcess:
    return DiffusionProcess(ABSORBING, schedule)


def uniform(schedule: NoiseSchedule) -> DiffusionProcess:
    return DiffusionProcess(UNIFORM, schedule)


SEDD_CASES = [
    (absorbing(LogLinearNoise(0.0)), 40, 1),
    (absorbing(CosineNoise(0.0)), 40, 1),
    (absorbing(GeometricNoise()), 80, 1),
    (uniform(LogLinearNoise(0.0)), 60, 4),
    (uniform(LogLinearNoise(1e-3)), 60, 4),
    (uniform(CosineNoise(1e-3)), 60, 4),
    (uniform(LinearNoise(0.0, 20.0)), 80, 4),
    (uniform(GeometricNoise()), 80, 1),
]


@pytest.mark.parametrize(("process", "points", "power"), SEDD_CASES)
def test_4_score_entropy_bound_is_the_entropy(process: DiffusionProcess, points: int, power: int) -> None:
    toy = Toy.random(2, process.graph.absorbing)
    reading = ScoreParameterisation(process.graph)

    def score_network(x_t: Tensor, sigma: Tensor) -> Tensor:
        return reading.output_from_score(toy.scores_at(x_t, sigma[0]).log().clamp_min(-1e4), x_t, sigma)

    parts = exact_bound(toy, ScoreEntropyLoss(process), score_network, quadrature(points, power))
    assert sum(parts) == pytest.approx(toy.entropy, abs=1e-5)


@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
def test_5_subs_bound_is_the_entropy(schedule: NoiseSchedule) -> None:
    toy = Toy.random(3, absorbing=True)
    parts = exact_bound(toy, SubsLoss(absorbing(schedule)), toy.oracle, quadrature(40))
    assert parts[1:] == (0.0, 0.0)
    assert sum(parts) == pytest.approx(toy.entropy, abs=1e-10)


def test_5_prior_part_closes_gap_of_eps() -> None:
    toy = Toy.random(3, absorbing=True)
    gaps = []
    for eps in (1e-3, 4e-3):
        parts = exact_bound(toy, SubsLoss(absorbing(LogLinearNoise(eps))), toy.oracle, quadrature(40))
        assert parts[0] < toy.entropy - 1e-3  # the diffusion part alone is not a bound
        gaps.append(sum(parts) - toy.entropy)
    assert 0 < gaps[0] < 1e-5
    assert gaps[1] / gaps[0] == pytest.approx(16, rel=0.05)


def test_5_bound_is_the_same_for_a_score_oracle() -> None:
    toy, process = Toy.random(3, absorbing=True), absorbing(LogLinearNoise(0.0))
    reading = ScoreParameterisation(ABSORBING)

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        return reading.output_from_x0(toy.oracle(x_t, sigma), x_t, sigma)

    parts = exact_bound(toy, SubsLoss(process, reading), network, quadrature(40))
    assert sum(parts) == pytest.approx(toy.entropy, abs=1e-10)


@pytest.mark.parametrize(
    ("schedule", "points", "power"),
    [(LogLinearNoise(0.0), 60, 6), (CosineNoise(0.0), 60, 6), (SMALL_START, 100, 1)],
)
def test_6_udlm_bound_is_the_entropy(schedule: NoiseSchedule, points: int, power: int) -> None:
    toy, objective = Toy.random(4, absorbing=False), UdlmLoss(uniform(schedule))
    parts = exact_bound(toy, objective, toy.oracle, quadrature(points, power))
    assert sum(parts) == pytest.approx(toy.entropy, abs=1e-8)
    mean = exact_bound(toy, objective, toy.posterior_mean_oracle, quadrature(points, power))
    assert sum(mean) > toy.entropy + 2e-4


def test_6_udlm_matches_formula_of_paper() -> None:
    process = uniform(LogLinearNoise(1e-3))
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(200, 2, VOCABULARY, generator=generator, dtype=torch.float64)
    x_0 = torch.randint(VOCABULARY, (200, 2), generator=generator)
    x_t = torch.randint(VOCABULARY, (200, 2), generator=generator)
    t = 0.02 + 0.98 * torch.rand(200, generator=generator, dtype=torch.float64)
    n, alpha = VOCABULARY, process.schedule.alpha(t)[:, None, None]
    true = n * alpha * torch.nn.functional.one_hot(x_0, n) + 1 - alpha
    model = n * alpha * logits.softmax(-1) + 1 - alpha
    true_z, model_z = (v.gather(-1, x_t[..., None]) for v in (true, model))
    ratios = (true / true_z * torch.log(model_z * true / (model * true_z))).sum(-1)
    slope = -(1 - 1e-3)
    expected = slope / (n * alpha[..., 0]) * (n / true_z[..., 0] - n / model_z[..., 0] - ratios)
    torch.testing.assert_close(UdlmLoss(process).diffusion(logits, x_t, x_0, t), expected, atol=1e-10, rtol=1e-10)


def test_7_score_entropy_of_subs_is_mdlm_per_sample() -> None:
    for schedule in (LogLinearNoise(1e-3), CosineNoise(1e-3), GeometricNoise()):
        process = absorbing(schedule)
        generator = torch.Generator().manual_seed(6)
        logits = torch.randn(64, 7, ABSORBING.dim, generator=generator, dtype=torch.float64)
        x_0 = torch.randint(VOCABULARY, (64, 7), generator=generator)
        t = 0.01 + 0.99 * torch.rand(64, generator=generator, dtype=torch.float64)
        x_t = process.corrupt(x_0, t, generator)
        sedd = ScoreEntropyLoss(process, X0Parameterisation(ABSORBING)).diffusion(logits, x_t, x_0, t)
        mdlm = SubsLoss(process).diffusion(logits, x_t, x_0, t)
        torch.testing.assert_close(sedd, mdlm, atol=1e-10, rtol=1e-12)


def test_11_gap_of_discrete_bound_falls_as_1_over_steps() -> None:
    toy = Toy.random(7, absorbing=True)
    gaps = []
    for steps in (16, 64, 256):
        objective = DiscreteSubsLoss(absorbing(LogLinearNoise(0.0)), steps)
        grid = (((i + 1) / steps, 1 / steps) for i in range(steps))
        gaps.append(sum(exact_bound(toy, objective, toy.oracle, grid)) - toy.entropy)
    assert gaps[-1] > 0
    assert 3.5 < gaps[0] / gaps[1] < 4.5
    assert 3.5 < gaps[1] / gaps[2] < 4.5


@pytest.mark.parametrize("seed", range(20))
def test_no_bound_is_below_the_entropy(seed: int) -> None:
    """With the oracle and an inexact network, on 20 toys, for default schedules."""
    for objective, points, power in (
        (SubsLoss(absorbing(LogLinearNoise(1e-3))), 24, 1),
        (SubsLoss(absorbing(GeometricNoise(1e-3, 20.0))), 50, 1),
        (ScoreEntropyLoss(absorbing(CosineNoise(1e-3)), X0Parameterisation(ABSORBING)), 24, 1),
        (UdlmLoss(uniform(LogLinearNoise(1e-3))), 30, 4),
        (UdlmLoss(uniform(GeometricNoise(1e-3, 20.0))), 50, 1),
    ):
        toy = Toy.random(100 + seed, objective.graph.absorbing)

        def wrong(x_t: Tensor, sigma: Tensor, toy: Toy = toy) -> Tensor:
            return 0.7 * toy.oracle(x_t, sigma)

        right = sum(exact_bound(toy, objective, toy.oracle, quadrature(points, power)))
        assert toy.entropy - 1e-8 < right < toy.entropy + 1e-4
        assert sum(exact_bound(toy, objective, wrong, quadrature(points, power))) > right + 1e-3


@pytest.mark.parametrize(
    ("used", "weighed"), [(LogLinearNoise(0.0), CosineNoise(0.0)), (CosineNoise(0.0), LogLinearNoise(0.0))]
)
def test_bound_with_two_different_alphas_is_detected(used: NoiseSchedule, weighed: NoiseSchedule) -> None:
    """The error changes every bound by far more than the tolerances above, in one direction to below the entropy."""
    for objective, power in ((SubsLoss(absorbing(weighed)), 1), (UdlmLoss(uniform(weighed)), 6)):
        toy = Toy.random(8, objective.graph.absorbing)
        parts = exact_bound(toy, objective, toy.oracle, quadrature(40, power), corruption=used)
        assert abs(sum(parts) - toy.entropy) > 0.05
