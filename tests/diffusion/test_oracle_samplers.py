"""Oracle tests 8 to 10: exact distributions of samples, by propagating the samplers' kernels over all sequences."""

import pytest
import torch

from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise, NoiseSchedule
from model_factory.diffusion.registry import SAMPLERS, fitting_samplers
from tests.oracles.diffusion_propagation import kernel, oracle_sampler, sampler_distribution, state_of
from tests.oracles.diffusion_toy import VOCABULARY, Toy
from tests.oracles.hybrid_toy import HybridToy


def process_of(absorbing: bool, schedule: NoiseSchedule) -> DiffusionProcess:
    return DiffusionProcess(AbsorbingGraph(VOCABULARY) if absorbing else UniformGraph(VOCABULARY), schedule)


def variation(toy: Toy, process: DiffusionProcess, name: str, steps: int) -> float:
    return toy.total_variation(sampler_distribution(toy, oracle_sampler(toy, process, name, steps)))


@pytest.mark.parametrize(
    ("absorbing", "schedule", "steps"),
    [
        (True, LogLinearNoise(0.0), 8),
        (True, CosineNoise(0.0), 8),
        (False, LogLinearNoise(1e-6), 32),
        (False, GeometricNoise(1e-4, 20.0), 128),
    ],
)
@pytest.mark.parametrize("name", ["analytic", "ancestral"])
def test_8_total_variation_falls_as_one_over_steps(
    absorbing: bool, schedule: NoiseSchedule, steps: int, name: str
) -> None:
    toy, process = Toy.random(9, absorbing), process_of(absorbing, schedule)
    coarse, fine = (variation(toy, process, name, count) for count in (steps, 4 * steps))
    assert 3.5 < coarse / fine < 4.5


@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_9_euler_analytic_and_ancestral_are_one_sampler(eps: float, steps: int) -> None:
    toy, process = Toy.random(10, absorbing=True), process_of(True, LogLinearNoise(eps))
    names = ("euler", "analytic", "ancestral", "ancestral_cache")
    samplers = [oracle_sampler(toy, process, name, steps) for name in names]
    state = state_of(toy.states)
    for _ in range(steps):
        first, *others = (kernel(sampler, state) for sampler in samplers)
        for other in others:
            torch.testing.assert_close(other, first, atol=1e-10, rtol=0)
        state = samplers[0].advance(state, state.tokens, torch.zeros_like(state.network_calls))


@pytest.mark.parametrize("schedule", [LogLinearNoise(1e-3), GeometricNoise(1e-4, 10.0)])
def test_analytic_and_ancestral_are_one_sampler_for_uniform_noise(schedule: NoiseSchedule) -> None:
    toy, process = Toy.random(10, absorbing=False), process_of(False, schedule)
    distributions = [
        sampler_distribution(toy, oracle_sampler(toy, process, name, 12)) for name in ("analytic", "ancestral")
    ]
    torch.testing.assert_close(distributions[0], distributions[1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), LogLinearNoise(1e-3), CosineNoise(1e-3), GeometricNoise()])
def test_10_first_hitting_is_exact(schedule: NoiseSchedule) -> None:
    toy = Toy.random(11, absorbing=True)
    sampler = oracle_sampler(toy, process_of(True, schedule), "first_hitting", 1)
    assert toy.total_variation(sampler_distribution(toy, sampler)) < 1e-12


def test_10_posterior_of_masked_token_does_not_depend_on_time() -> None:
    toy = Toy.random(11, absorbing=True)
    masked = toy.states == VOCABULARY
    distributions = [
        toy.posterior(toy.states, torch.full((len(toy.states),), sigma, dtype=torch.float64), False)[masked]
        for sigma in (1e-3, 0.3, 5.0)
    ]
    for probs in distributions[1:]:
        torch.testing.assert_close(probs, distributions[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("frozen", [[True, False, False], [False, False, True], [True, False, True]])
def test_prompts_condition_the_samples_exactly(frozen: list[bool]) -> None:
    """First-hitting with frozen tokens samples p(x_0 | those tokens); many ancestral steps come close."""
    toy, process = Toy.random(12, absorbing=True), process_of(True, LogLinearNoise(0.0))
    kept = torch.tensor(frozen)
    target = toy.given(kept)
    exact = sampler_distribution(toy, oracle_sampler(toy, process, "first_hitting", 1), kept)
    close = sampler_distribution(toy, oracle_sampler(toy, process, "ancestral", 200), kept)
    assert target.total_variation(exact) < 1e-12
    assert target.total_variation(close) < 2e-3


PROMPTS = [[True, False, False], [False, False, True]]
STEPS = (16, 64)


def distances_given(
    kind: str, name: str, frozen: list[bool] | None, *, told: bool = True, gamma: float = 2.0
) -> list[float]:
    """Return the distances from p(x_0 | prompt) after 16 and 64 steps; without `told` the network gets row levels.

    Hybrid noise has a finite rate at both ends with gamma = 2; by default it has none, and samplers a lower order.
    """
    if kind == "hybrid":
        toy: Toy = HybridToy.drawn(12, 0.3, gamma)
        process = DiffusionProcess(*HybridGraph(VOCABULARY, 0.3, gamma).at_pace(LogLinearNoise(1e-6)))
    else:
        toy, process = Toy.random(12, kind == "absorbing"), process_of(kind == "absorbing", LogLinearNoise(1e-6))
    kept = None if frozen is None else torch.tensor(frozen)
    target = toy if kept is None else toy.given(kept)
    samplers = (oracle_sampler(toy, process, name, steps, frozen=kept if told else None) for steps in STEPS)
    return [target.total_variation(sampler_distribution(toy, sampler, kept)) for sampler in samplers]


@pytest.mark.parametrize("name", ["ancestral", "analytic", "euler"])
@pytest.mark.parametrize("kind", ["absorbing", "uniform", "hybrid"])
def test_samples_approach_the_conditional_as_one_over_steps(kind: str, name: str) -> None:
    for frozen in (None, *PROMPTS):
        coarse, fine = distances_given(kind, name, frozen)
        assert 3.5 < coarse / fine < 4.5
    if kind == "absorbing":
        assert distances_given(kind, name, PROMPTS[0], told=False) == distances_given(kind, name, PROMPTS[0])


def test_samples_approach_the_conditional_at_the_order_without_prompt() -> None:
    (coarse, fine), *given = (distances_given("hybrid", "ancestral", frozen, gamma=1.0) for frozen in (None, *PROMPTS))
    assert 2.3 < coarse / fine < 2.6
    assert all(2.5 < early / late < 3.0 for early, late in given)


@pytest.mark.parametrize("name", ["ancestral", "analytic", "euler"])
@pytest.mark.parametrize("kind", ["uniform", "hybrid"])
def test_network_told_one_level_a_row_levels_off(kind: str, name: str) -> None:
    coarse, fine = distances_given(kind, name, PROMPTS[1], told=False)
    assert coarse / fine < 1.5
    assert fine > 0.07 > 0.01 > distances_given(kind, name, PROMPTS[1])[1]


@pytest.mark.parametrize(
    "name", [name for name in fitting_samplers(absorbing=True) if SAMPLERS.get(name).accuracy == "convergent"]
)
@pytest.mark.parametrize("absorbing", [True, False])
def test_convergent_samplers_converge_with_score_network(name: str, absorbing: bool) -> None:
    if SAMPLERS.get(name).absorbing_only and not absorbing:
        pytest.skip("fits the absorbing process only")
    toy, process = Toy.random(13, absorbing), process_of(absorbing, CosineNoise(1e-5))
    reading = ScoreParameterisation(process.graph)
    coarse, fine = (
        toy.total_variation(sampler_distribution(toy, oracle_sampler(toy, process, name, steps, reading)))
        for steps in (8, 64)
    )
    assert fine < max(coarse / 5, 1e-12)
    assert fine < 0.01


def test_confidence_is_exact_only_at_one_token_per_call() -> None:
    toy, process = Toy.random(14, absorbing=True), process_of(True, LogLinearNoise(0.0))
    assert variation(toy, process, "confidence", 3) < 1e-12
    assert variation(toy, process, "confidence", 2) > 0.01
