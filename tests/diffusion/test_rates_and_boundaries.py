"""Rates at a noise level, draws from given uniforms, and settings at their bounds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.block import BlockSubsLoss
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph
from model_factory.diffusion.processes.noise_schedule import GeometricNoise, LogLinearNoise
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.base import Proposal, create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.sampling import sample
from model_factory.diffusion.samplers.state import SamplerState, start_state
from model_factory.diffusion.time_strata import stratified_times
from tests.diffusion.test_reference_formulas import Chosen

N = 3
MASKS = AbsorbingGraph(N)
HYBRID, PACE = HybridGraph(N, 0.3, 0.5).at_pace(LogLinearNoise())
SIGMA = torch.tensor([0.2, 1.7], dtype=torch.float64)
TOKENS = torch.tensor([[0, 2, 3], [1, 3, 0]])
PROCESS = DiffusionProcess(MASKS, LogLinearNoise())


def even(x_t: Tensor, sigma: Tensor, **_: Tensor) -> Tensor:
    """Return equal logits for all data tokens."""
    return torch.zeros(*x_t.shape, N + 1)


def test_rates_are_derivatives_of_transitions() -> None:
    """Compare Q with (q over a small dsigma - 1) / dsigma, by rows and columns."""
    rise = torch.full((2,), 1e-6, dtype=torch.float64)
    added = HYBRID.noise_between(rise, SIGMA + rise)[:, None].expand(2, N + 1, N + 1)
    matrix = (added + torch.expm1(-rise)[:, None, None] * torch.eye(N + 1)) / rise[:, None, None]
    every = torch.arange(N + 1).expand(2, N + 1)
    torch.testing.assert_close(HYBRID.rate(every, SIGMA), matrix, rtol=1e-5, atol=1e-5)
    columns = torch.stack([matrix[row].T[TOKENS[row]] for row in range(2)])
    torch.testing.assert_close(HYBRID.rate_into(TOKENS, SIGMA), columns, rtol=1e-5, atol=1e-5)


def test_euler_step_of_hybrid_noise_uses_rates_at_sigma() -> None:
    """It leaves x for y at rate Q_sigma(y, x) p(y) / p(x), with p the distribution of a noisy token."""
    sampler = create_sampler(
        "euler", DiffusionProcess(HYBRID, PACE), Denoiser(even, X0Parameterisation(HYBRID)), steps=1000
    )
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    state = replace(start_state(HYBRID, 2, 3, generators=RowGenerators(torch.zeros(2).long())), tokens=TOKENS, t=t)
    sigma, every = PACE.sigma(t), torch.arange(N + 1).expand(2, N + 1)
    data = torch.tensor([1.0] * N + [0.0], dtype=torch.float64) / N
    probs = torch.exp(-sigma)[:, None] * data + HYBRID.noise(sigma)
    rates = HYBRID.rate(every, sigma)
    move = sampler.propose(state).target
    for row in range(2):
        for position, x in enumerate(TOKENS[row].tolist()):
            wanted = rates[row, :, x] * probs[row] / probs[row, x] * PACE.rate(t)[row] / 1000
            wanted[x] = 0.0
            torch.testing.assert_close(move[row, position], wanted)


def test_hybrid_noise_draws_mask_or_uniform_token() -> None:
    """The second uniform selects mask or token in the shares of `noise`; the first selects the token."""
    noise = HYBRID.noise(SIGMA[:1])[0]
    share = float(noise[:N].sum() / noise.sum())
    first = [(token + part) / N for token in range(N) for part in (0.001, 0.999)]
    draws = torch.tensor([[one, second] for second in (share - 1e-9, share + 1e-9) for one in first]).double()
    draws[: len(first), 1], draws[len(first) :, 1] = share - 1e-9, share + 1e-9
    tokens = torch.zeros(1, len(draws), dtype=torch.int64)
    drawn = HYBRID.sample_noise(tokens, SIGMA[:1], Chosen(draws[None]))
    assert drawn.tolist() == [[0, 0, 1, 1, 2, 2, *[N] * len(first)]]


def test_zero_probability_never_happens_at_uniform_zero() -> None:
    """Uniforms in [0, 1) include 0, which must not count as less than a probability of 0."""
    zeros, free = torch.zeros(1, 2, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.bool)
    tokens, weights = torch.tensor([[0, 1]]), torch.tensor([[[0.0, 0.0, 1.0]] * 2], dtype=torch.float64)
    move = torch.tensor([[0.0, 1e-300]], dtype=torch.float64)
    assert Proposal(move, weights).draw(tokens, free, Chosen(zeros)).tolist() == [[0, 2]]
    never = create_sampler(
        {"type": "remasking", "eta_cap": 0.0}, PROCESS, Denoiser(even, X0Parameterisation(MASKS)), steps=4
    )
    state = replace(start_state(MASKS, 1, 2, generators=Chosen(zeros)), tokens=torch.tensor([[0, N]]))
    assert never.step(state).tokens.tolist() == [[0, 0]]  # the mask is unmasked, the token is kept


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("remasking", ["eta_cap", "eta_rescale"]),
        ("predictor_corrector", ["kappa", "t_on", "t_off"]),
    ],
)
def test_sampler_settings_end_at_one(name: str, settings: list[str]) -> None:
    denoiser = Denoiser(even, X0Parameterisation(MASKS))
    for setting in settings:
        for value in (-1e-9, 1.0 + 1e-9, 1.5):
            with pytest.raises(SettingError, match=setting):
                create_sampler({"type": name, setting: value}, PROCESS, denoiser, 3)
        first = {"t_on": 1.0} if setting == "t_off" else {}
        for value in (0.1, 1.0):
            sampler = create_sampler({"type": name, **first, setting: value}, PROCESS, denoiser, 3)
            assert getattr(sampler, setting) == value
    with pytest.raises(SettingError, match="t_off"):
        create_sampler({"type": "predictor_corrector", "t_on": 0.3, "t_off": 0.31}, PROCESS, denoiser, 3)


def test_strata_t_min_is_below_one() -> None:
    rows = torch.arange(4)
    for wrong in (-1e-9, 0.9991, 1.0):
        with pytest.raises(SettingError, match="t_min"):
            stratified_times(rows, 4, 0, wrong)
    low, high = stratified_times(rows, 4, 0, 0.999), torch.ones(4, dtype=torch.float64)
    assert bool(((low > 0.999) & (low <= high)).all())


def test_sampling_is_the_same_for_any_batch_size() -> None:
    """Compare the whole final state and its generators' next draws; the global generator has no effect."""
    denoiser = Denoiser(even, X0Parameterisation(MASKS))

    def drawn(seed: int, batch_size: int | None) -> SamplerState:
        generator = torch.Generator().manual_seed(seed)
        settings = {"steps": 4, "sampler": "ancestral", "generator": generator, "batch_size": batch_size}
        return sample(PROCESS, denoiser, 5, 6, **settings)

    whole, other = drawn(3, None), drawn(4, None)
    torch.rand(3)
    keys = RowGenerators.from_generator(torch.Generator().manual_seed(3), 5).keys
    assert torch.equal(whole.generators.keys, keys)
    assert whole.generators.counter == 4 * 2 * 6  # steps, uniforms per position, positions
    assert not torch.equal(whole.tokens, other.tokens)
    for size in (1, 2, 3, 5):
        again = drawn(3, size)
        for name in ("tokens", "t", "frozen", "network_calls"):
            assert torch.equal(getattr(again, name), getattr(whole, name))
        assert (again.step, again.generators.counter) == (whole.step, whole.generators.counter)
        assert torch.equal(again.generators[0:5].rand(3), whole.generators[0:5].rand(3))


def test_first_hitting_state_time_is_of_last_unmasking() -> None:
    """Unmask in order of decreasing sigma; t is the time of that sigma, and 0 when no mask remains."""
    sampler = create_sampler("first_hitting", PROCESS, Denoiser(even, X0Parameterisation(MASKS)), 3)
    state = start_state(MASKS, 1, 3, generators=Chosen(torch.full((1, 3), 0.5, dtype=torch.float64)))
    levels = torch.tensor([[0.4, 2.0, 0.1]], dtype=torch.float64)
    state.cache["hit_sigma"] = levels
    for position in (1, 0, 2):
        state = sampler.step(state)
        assert int(state.tokens[0, position]) < N
        torch.testing.assert_close(state.t, PROCESS.schedule.inverse(levels[:, position]))
    assert sampler.is_finished(state)


def test_block_network_gets_clean_half_at_both_ends() -> None:
    """For sigma(0) > 0 the reconstruction calls the network with [x ; x_0] at [sigma(0) ; 0], the prior at [sigma(1) ; 0]."""
    asked: list[tuple[Tensor, Tensor]] = []

    def network(doubled: Tensor, sigma: Tensor) -> Tensor:
        asked.append((doubled, sigma))
        return torch.zeros(*doubled.shape, N + 1)

    x_0 = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    objective = BlockSubsLoss(DiffusionProcess(MASKS, GeometricNoise(1.0, 40.0)), 2)
    parts = objective.parts(network, x_0, torch.tensor([0.3, 0.6], dtype=torch.float64))
    for (shown, passed), level in zip(asked[1:], (1.0, 40.0), strict=True):
        assert torch.equal(shown[:, 4:], x_0)
        torch.testing.assert_close(passed, torch.tensor([[level] * 4 + [0.0] * 4] * 2, dtype=torch.float64))
    masked = asked[1][0][:, :4] == N
    wanted = torch.log(torch.tensor(float(N), dtype=torch.float64)) * masked
    torch.testing.assert_close(parts.reconstruction, wanted)


@pytest.mark.parametrize("graph", [MASKS, UniformGraph(N), HYBRID])
def test_sigma_may_differ_between_positions(graph: AbsorbingGraph | UniformGraph | HybridGraph) -> None:
    """Levels [B, L] act at each position like levels [B] on rows of one token."""
    tokens = TOKENS.clamp_max(graph.dim - 1)
    levels = torch.tensor([[0.1, 0.7, 2.0], [3.0, 0.2, 0.4]], dtype=torch.float64)
    alone = tokens.reshape(-1, 1), levels.reshape(-1)
    for formula in (graph.rate, graph.rate_into, graph.transition):
        torch.testing.assert_close(formula(tokens, levels).reshape(6, 1, -1), formula(*alone))


def test_hybrid_limit_follows_odds_and_noise_starts_at_0() -> None:
    """The limit has masks with odds r, and data tokens with total odds u(r) + 1."""
    graph, odds = HybridGraph(N, 0.3, 0.5, mask_odds=2.0), torch.tensor(2.0, dtype=torch.float64)
    wrong = float(graph.mixture.replaced(odds)) + 1
    wanted = torch.tensor([wrong / N] * N + [2.0], dtype=torch.float64) / (wrong + 2)
    torch.testing.assert_close(graph.limit, wanted)
    torch.testing.assert_close(graph.noise_between(SIGMA), graph.noise(SIGMA))
    torch.testing.assert_close(graph.noise_between(SIGMA, SIGMA), graph.noise(SIGMA))
