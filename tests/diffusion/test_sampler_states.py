"""Edge cases of schedules, initial states and sampler arguments."""

import math

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.discrete_time import DiscreteNoise
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation, X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph
from model_factory.diffusion.processes.noise_schedule import (
    MAX_SIGMA,
    CosineNoise,
    GeometricNoise,
    LinearNoise,
    LogLinearNoise,
    NoiseSchedule,
)
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.registry import SAMPLERS, register_sampler
from model_factory.diffusion.samplers.base import Proposal, create_sampler, samplers_for
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.sampling import sample
from model_factory.diffusion.samplers.state import start_state

SCHEDULES = [LogLinearNoise(), CosineNoise(), GeometricNoise(), LinearNoise(), LinearNoise(0.5, 3.0), DiscreteNoise(7)]
SCHEDULES.append(HybridGraph(3, 0.2, 2.0).at_pace(LogLinearNoise())[1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_is_exact_at_both_ends(schedule: NoiseSchedule) -> None:
    """Numbers and float32 times are converted to float64, and a level within rounding of an end is clamped to it."""
    for method in (schedule.sigma, schedule.rate, schedule.alpha):
        for t in (0.0, 0.3, 1.0):
            found = method(t)
            assert found.dtype == torch.float64
            assert float(found) == float(method(torch.tensor([t], dtype=torch.float64)))
            assert math.isfinite(float(found))
        assert method(torch.tensor([0.5], dtype=torch.float32)).dtype == torch.float64
    low, high = float(schedule.sigma(0.0)), float(schedule.sigma(1.0))
    slack = 1e-13 * max(high, 1.0)
    assert 1 - 1e-9 < float(schedule.inverse(high + slack)) <= 1
    if low > 0:
        assert 0 <= float(schedule.inverse(low - slack)) < 1e-9
    assert schedule.inverse(torch.tensor([low, high], dtype=torch.float64)).tolist() == pytest.approx([0.0, 1.0])
    assert schedule.num_steps == (7 if isinstance(schedule, DiscreteNoise) else None)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_hybrid_rate_at_time_zero(gamma: float) -> None:
    """The slope of u(r) = B r^(gamma / 2) (1 + r)^(1 - gamma) at 0 is infinite below gamma = 2, and B at gamma = 2."""
    schedule = HybridGraph(3, 0.2, gamma).at_pace(LogLinearNoise(0.1))[1]
    first = float(schedule.rate(0.0))
    assert first == (pytest.approx(0.9 * (1 + 2.0**2 * 0.2 / 0.8)) if gamma == 2 else math.inf)
    t = torch.tensor([1e-9, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    torch.testing.assert_close(schedule.rate(t.detach()), slope, rtol=1e-9, atol=0)


def test_schedule_ending_at_alpha_0_has_gradient() -> None:
    t = torch.tensor([0.2, 1.0], dtype=torch.float64, requires_grad=True)
    for schedule in (LogLinearNoise(0.0), CosineNoise(0.0)):
        (slope,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
        assert bool(slope.isfinite().all())


def test_schedule_settings_at_bounds() -> None:
    for build in (LogLinearNoise, CosineNoise):
        assert float(build(0.5).alpha(1.0)) == pytest.approx(0.5)
        assert build().eps == 1e-3
        for eps in (0.5001, -1e-9):
            with pytest.raises(SettingError, match="eps: got"):
                build(eps)
    LinearNoise(0.0, MAX_SIGMA)
    assert (LinearNoise().sigma_min, LinearNoise().sigma_max) == (0, 10)
    assert (GeometricNoise().sigma_min, GeometricNoise().sigma_max) == (1e-4, 20)
    for build, low, high, message in (
        (LinearNoise, 0.0, 0.0, "sigma_max: got 0"),
        (LinearNoise, 1.0, 1.0, "sigma_min: got 1.0; expected less than sigma_max = 1"),
        (LinearNoise, -0.1, 1.0, "sigma_min: got -0.1"),
        (LinearNoise, 0.0, MAX_SIGMA + 1e-6, "sigma_max"),
        (GeometricNoise, 0.0, 1.0, r"sigma_min: got 0.0; expected a number in \(0"),
        (GeometricNoise, 0.5, MAX_SIGMA + 1, "sigma_max"),
        (GeometricNoise, MAX_SIGMA + 1, 1.0, "sigma_min"),
    ):
        with pytest.raises(SettingError, match=message):
            build(low, high)


def test_hybrid_defaults_match_paper() -> None:
    for graph in (HybridGraph(4), HybridGraph(4, 0.1), HybridGraph(4, 0.1, 1.0)):
        assert graph.settings == (4, 0.1, 1.0)
        assert (graph.dim, graph.num_tokens, graph.mask_token) == (5, 4, 4)
        assert float(graph.limit[4]) == pytest.approx(1.0)
    for wrong in ({"p_uniform": 0.0}, {"p_uniform": 0.995}, {"gamma": 0.0}, {"gamma": 2.01}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            HybridGraph(4, **wrong)
    HybridGraph(4, p_uniform=0.99, gamma=2.0)


def network(dim: int) -> object:
    return lambda x_t, sigma, **_: torch.zeros(*x_t.shape, dim)


def denoiser(process: DiffusionProcess, **settings: object) -> Denoiser:
    return Denoiser(network(process.graph.dim), X0Parameterisation(process.graph), **settings)


MASKS, WRONG = (DiffusionProcess(graph, LogLinearNoise()) for graph in (AbsorbingGraph(3), UniformGraph(3)))


def test_initial_state_is_noise_at_time_one() -> None:
    rows = RowGenerators.from_seed(0, torch.arange(2))
    state = start_state(MASKS.graph, 2, 4, generators=rows)
    assert state.tokens.tolist() == [[3] * 4] * 2
    assert state.t.tolist() == [1, 1]
    assert state.t.dtype == torch.float64
    assert state.network_calls.tolist() == [0, 0]
    assert state.network_calls.dtype == torch.int64
    assert (state.step, state.cache, state.frozen.any().item()) == (0, {}, False)
    drawn = start_state(WRONG.graph, 2, 4, generators=RowGenerators.from_seed(0, torch.arange(2))).tokens
    expected = (RowGenerators.from_seed(0, torch.arange(2)).rand(4) * 3).long()
    assert torch.equal(drawn, expected)
    one = AbsorbingGraph(1)  # a vocabulary of one token, which is also at positions that are not frozen
    kept = torch.tensor([True, False])
    tokens = start_state(one, 1, 2, prompt=torch.tensor([0, 7]), frozen=kept, generators=rows[:1]).tokens
    assert tokens.tolist() == [[0, 1]]


def test_proposal_probabilities() -> None:
    move = torch.tensor([[0.25, 1.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    tokens = torch.tensor([[0, 1, 2]])
    probs = Proposal(move, target).probabilities(tokens)
    expected = [[0.75, 0.0625, 0.1875], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]
    assert probs[0].tolist() == expected
    frozen = torch.tensor([[True, False, False]])
    assert Proposal(move, target).probabilities(tokens, frozen)[0].tolist() == [[1.0, 0.0, 0.0], *expected[1:]]
    weights = torch.tensor([[[6.0, 1.0, 1.0]]], dtype=torch.float64)
    made = Proposal.from_weights(weights, tokens[:, :1])
    assert (made.move.tolist(), made.target.tolist()) == ([[0.25]], [[[0.0, 1.0, 1.0]]])


def test_registry_refuses_taken_names_and_unfit_processes() -> None:
    fits_all = {"analytic", "euler", "ancestral", "predictor_corrector"}
    for name in samplers_for(MASKS.graph):
        sampler = type(create_sampler(name, MASKS, denoiser(MASKS), 3))
        assert sampler.absorbing_only == SAMPLERS.get(name).absorbing_only == (name not in fits_all)
        with pytest.raises(ValueError, match=f"sampler '{name}' is already registered"):
            register_sampler(name)(sampler)
        if name not in fits_all:
            assert name not in samplers_for(WRONG.graph)
            with pytest.raises(SettingError, match=f"{sampler.__name__} for UniformGraph"):
                sampler(WRONG, denoiser(WRONG), 3)
        for steps in (0, -1):
            with pytest.raises(SettingError, match="steps"):
                sampler(MASKS, denoiser(MASKS), steps)
    accuracy = {name: SAMPLERS.get(name).accuracy for name in SAMPLERS}
    assert accuracy.pop("first_hitting") == "exact"
    assert {name for name, kind in accuracy.items() if kind == "neither"} == {"entropy_bounded", "predictor_corrector"}
    assert set(accuracy.values()) == {"neither", "convergent"}


@pytest.mark.parametrize("name", sorted(samplers_for(MASKS.graph)))
def test_sampler_levels_follow_grid_and_end_at_zero(name: str) -> None:
    sampler = create_sampler(name, MASKS, denoiser(MASKS), 4)
    state = start_state(MASKS.graph, 2, 3, generators=RowGenerators.from_seed(0, torch.arange(2)))
    for step, t in enumerate((1.0, 0.75, 0.5, 0.25)):
        assert sampler.time(step) == t
        sigma, following = sampler.levels(state)
        assert torch.equal(sigma, MASKS.schedule.sigma(torch.full((2,), t)))
        last = torch.zeros(2, dtype=torch.float64)
        assert torch.equal(following, last if step == 3 else MASKS.schedule.sigma(torch.full((2,), t - 0.25)))
        state = sampler.advance(state, state.tokens, torch.tensor([True, False]))
        assert torch.equal(state.t, torch.full((2,), t - 0.25, dtype=torch.float64))
    assert state.network_calls.tolist() == [4, 0]
    assert state.step == 4


def test_guidance_doubles_network_calls_in_joined_batches() -> None:
    cond = torch.zeros(5, 1)
    for guidance, calls in ((1.0, 3), (0.0, 3), (2.0, 6)):
        made = denoiser(MASKS, cond=cond, guidance=guidance)
        for size in (None, 2, 5, 9):
            state = sample(MASKS, made, 5, 3, sampler="first_hitting", batch_size=size, generator=torch.Generator())
            assert state.network_calls.tolist() == [calls] * 5
            assert (len(state.generators), state.step, state.cache if size == 2 else {}) == (5, 3, {})
            assert state.t.shape == (5,)
            assert state.frozen.shape == state.tokens.shape == (5, 3)


def test_parameterisation_inverses_are_float64() -> None:
    x_t, sigma = torch.tensor([[3, 1]]), torch.tensor([0.3])
    for reading in (ScoreParameterisation(MASKS.graph), ScoreParameterisation(MASKS.graph, False)):
        output: Tensor = reading.output_from_score(torch.zeros(1, 2, 4), x_t, sigma)
        assert output.dtype == torch.float64
        shift = torch.log(torch.expm1(sigma.double()) * 3) if reading.scale_by_sigma else torch.zeros(1).double()
        torch.testing.assert_close(output, shift[:, None, None].expand(1, 2, 4), rtol=1e-12, atol=1e-12)


def test_unmask_probability_and_tokens_are_kept() -> None:
    """(alpha_s - alpha_t) / (1 - alpha_t) at masks, in proposals and in draws."""
    x_t, sigma, later = torch.tensor([[3, 0, 3]]), torch.tensor([2.0]).double(), torch.tensor([0.5]).double()
    unmasked = (torch.exp(-later) - torch.exp(-sigma)) / (1 - torch.exp(-sigma))
    graph = AbsorbingGraph(3)
    for found in (
        graph.unmask_probability(x_t, sigma, later),
        graph.reverse_posterior(torch.ones(1, 3, 4), x_t, sigma, later)[0],
    ):
        torch.testing.assert_close(found, torch.stack([unmasked, torch.zeros(1).double(), unmasked], 1))
    state = start_state(
        graph, 1, 3, prompt=torch.tensor([0, 1, 2]), frozen=torch.tensor([False, True, False]), generators=rows_of(1)
    )
    for name in ("ancestral_cache", "ancestral", "remasking"):
        sampler = create_sampler(name, MASKS, denoiser(MASKS), 1)
        done = sampler.step(state)
        assert done.tokens[0, 1] == 1
        assert bool((done.tokens < 3).all())
        assert done.network_calls.tolist() == [1]
        again = sampler.step(done)  # no mask remains
        assert torch.equal(again.tokens, done.tokens)
        assert again.network_calls.tolist() == ([2] if name == "ancestral" else [1])


def rows_of(count: int) -> RowGenerators:
    return RowGenerators.from_seed(0, torch.arange(count))
