"""Sampling: defaults, states split into and joined from batches, single rows and numerical edge cases."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.categorical import invert_distribution
from model_factory.diffusion.errors import SettingError, ShapeError, TokenError, check_integers
from model_factory.diffusion.gaussian import GaussianDiffusion
from model_factory.diffusion.gaussian_schedule import beta_table
from model_factory.diffusion.objectives.discrete_time import _normalise
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.registry import SAMPLERS
from model_factory.diffusion.samplers.base import Proposal, create_sampler, samplers_for
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.predictor_corrector import mix_with_corrector
from model_factory.diffusion.samplers.sampling import sample
from model_factory.diffusion.samplers.state import SamplerState, start_state

N = 4
MASKS, WRONG = (DiffusionProcess(graph, LogLinearNoise()) for graph in (AbsorbingGraph(N), UniformGraph(N)))


def denoiser(process: DiffusionProcess = MASKS) -> Denoiser:
    dim = process.graph.dim
    return Denoiser(lambda x_t, sigma, **_: torch.zeros(*x_t.shape, dim), X0Parameterisation(process.graph))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize(("process", "name"), [(MASKS, "first_hitting"), (WRONG, "ancestral")])
def test_sampling_without_name_uses_default_sampler(process: DiffusionProcess, name: str) -> None:
    chosen, named = (
        sample(process, denoiser(process), 3, 5, steps=4, sampler=sampler, generator=seeded())
        for sampler in (None, name)
    )
    assert torch.equal(chosen.tokens, named.tokens)
    assert chosen.step == named.step == (5 if name == "first_hitting" else 4)


def test_network_gets_mask_of_evaluated_rows() -> None:
    """Padding is not drawn, and a batch gets the mask of its own rows."""
    shown: list[Tensor] = []

    def network(x_t: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
        assert mask.shape == x_t.shape
        shown.append(mask)
        return torch.zeros(*x_t.shape, N + 1)

    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    asked = Denoiser(network, X0Parameterisation(MASKS.graph))
    sample(MASKS, asked, 3, 3, steps=2, sampler="ancestral", mask=mask, batch_size=2, generator=seeded())
    assert [one.tolist() for one in shown] == [mask[:2].tolist()] * 2 + [mask[2:].tolist()] * 2


def test_joined_batches_report_longest_number_of_steps() -> None:
    """first_hitting takes a step for each mask: here two, then one, and one call for each."""
    frozen = torch.tensor([[False, False, True], [True, False, True]])
    state = sample(
        MASKS, denoiser(), 2, 3, prompt=torch.zeros(2, 3).long(), frozen=frozen, batch_size=1, generator=seeded()
    )
    assert state.step == 2
    assert state.network_calls.tolist() == [2, 1]
    swapped = sample(
        MASKS,
        denoiser(),
        2,
        3,
        prompt=torch.zeros(2, 3).long(),
        frozen=frozen.flip(0),
        batch_size=1,
        generator=seeded(),
    )
    assert swapped.step == 2
    assert swapped.network_calls.tolist() == [1, 2]
    assert torch.equal(state.frozen, frozen)
    assert state.cache == {}


def test_state_select_keeps_all_fields() -> None:
    state = start_state(MASKS.graph, 3, 2, generators=RowGenerators.from_seed(1, torch.arange(3)))
    state = replace(
        state,
        tokens=torch.arange(6).reshape(3, 2) % N,
        t=torch.tensor([0.1, 0.2, 0.3]).double(),
        frozen=torch.eye(3, 2).bool(),
        network_calls=torch.tensor([4, 5, 6]),
        step=7,
        cache={"masks": torch.tensor([1, 2, 3])},
    )
    part = state.select(slice(1, 3))
    assert part.cache["masks"].tolist() == [2, 3]
    assert (part.tokens.tolist(), part.network_calls.tolist(), part.step) == ([[2, 3], [0, 1]], [5, 6], 7)
    assert part.t.tolist() == state.t.tolist()[1:]
    assert torch.equal(part.frozen, state.frozen[1:])
    assert torch.equal(part.generators.rand(2), state.generators.rand(2)[1:])


@pytest.mark.parametrize("name", [name for name in samplers_for(MASKS.graph) if SAMPLERS.get(name).absorbing_only])
@pytest.mark.parametrize("rows", [1, 2])
def test_sampling_works_for_single_row_and_position(name: str, rows: int) -> None:
    """No mask remains, and no mask is drawn, in one row of one position as in larger batches."""
    for length in (1, 3):
        state = sample(MASKS, denoiser(), rows, length, steps=3, sampler=name, generator=seeded())
        assert state.tokens.shape == (rows, length)
        assert bool((state.tokens < N).all())
        assert name == "first_hitting" or state.t.tolist() == [0.0] * rows  # its time is that of its last unmasking


def test_correction_interval_is_t_off_to_t_on() -> None:
    """t_off < t <= t_on, at both ends: with kappa = 0 correcting steps mask data tokens again, ancestral steps never."""
    settings = {"type": "predictor_corrector", "kappa": 0.0, "t_on": 0.75, "t_off": 0.25}
    sampler = create_sampler(settings, MASKS, denoiser(), 8)
    for step, corrects in ((1, False), (2, True), (5, True), (6, False)):
        state = start_state(MASKS.graph, 1, 2, generators=RowGenerators(torch.zeros(1).long()))
        tokens, t = torch.tensor([[0, N]]), torch.full((1,), 1 - step / 8).double()
        proposal = sampler.propose(replace(state, tokens=tokens, t=t, step=step))
        assert (float(proposal.move[0, 0]) > 0) == corrects


def test_corrector_move_probability_is_at_most_one() -> None:
    """Also if rounding makes the probabilities sum to more."""
    x_t = torch.tensor([[0, 1]])
    probs = torch.tensor([[[0.0, 0.7, 0.3 + 1e-9], [0.25, 0.5, 0.25]]], dtype=torch.float64)
    stay = Proposal(torch.zeros(1, 2).double(), probs)
    assert mix_with_corrector(stay, probs, 0.0, x_t).move.tolist() == [[1.0, 0.5]]
    half = mix_with_corrector(Proposal(torch.ones(1, 2).double(), probs), probs, 0.5, x_t)
    torch.testing.assert_close(half.move, torch.tensor([[1.0, 0.75]], dtype=torch.float64))
    assert float(half.move.max()) <= 1


def test_guidance_uses_conditional_output_if_infinite() -> None:
    """A token that is impossible without the condition, with it, and with both; elsewhere g times the difference."""
    plain = torch.tensor([0.0, -torch.inf, -1.0, -torch.inf, -3.0])
    conditional = torch.tensor([-1.0, -2.0, -torch.inf, -torch.inf, 0.0])

    def network(x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        return (plain if cond is None else conditional).expand(*x_t.shape, 5)

    asked = Denoiser(network, X0Parameterisation(MASKS.graph), cond=torch.zeros(1, 1), guidance=2.5)
    wanted = torch.tensor([-2.5, -2.0, -torch.inf, -torch.inf, 4.5])
    assert torch.equal(asked.output(torch.full((1, 1), N), torch.ones(1))[0, 0], wanted)


def test_frozen_positions_may_hold_any_id() -> None:
    process = DiffusionProcess(AbsorbingGraph(1), LogLinearNoise())
    x_0, frozen = torch.tensor([[0, 7, 0]]), torch.tensor([[False, True, False]])
    assert process.corrupt(x_0, torch.ones(1).double(), seeded(), frozen)[0, 1] == 7
    with pytest.raises(TokenError):
        process.corrupt(x_0, torch.ones(1).double(), seeded())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("t", [3, torch.tensor([3, 5])])
def test_gaussian_keeps_dtype_of_latent(dtype: torch.dtype, t: int | Tensor) -> None:
    """Coefficients are rounded to it, one for all rows or one for each."""
    process = GaussianDiffusion(beta_table("linear", 8, 0.01, 0.3))
    x, noise = (torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    s, step = 1 if isinstance(t, int) else torch.tensor([1, 2]), 2.0**-6
    for found, wanted in (
        (process.q_sample(x, t, noise), process.q_sample(x.double(), t, noise.double())),
        (process.posterior(x, noise, t, s)[0], process.posterior(x.double(), noise.double(), t, s)[0]),
        (process.ddim_step(x, noise, t, s), process.ddim_step(x.double(), noise.double(), t, s)),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=step, atol=4 * step)
    assert process.posterior(x, noise, t, s)[1].dtype == dtype


def test_sampler_is_finished_after_its_steps() -> None:
    sampler = create_sampler("ancestral", MASKS, denoiser(), 3)
    state: SamplerState = start_state(MASKS.graph, 1, 1, generators=RowGenerators(torch.zeros(1).long()))
    assert [sampler.is_finished(replace(state, step=step)) for step in (0, 2, 3, 4)] == [False, False, True, True]
    assert [sampler.time(step) for step in (0, 3)] == [1.0, 0.0]


def test_categorical_sums_float32_weights_in_float64() -> None:
    """2^24 + 1 + 1 is 2^24 + 2 in float64 and 2^24 in float32; with many tokens and with few."""
    for size in (3, 5000):
        weights = torch.zeros(3, size)
        weights[:, :3] = torch.tensor([2.0**24, 1.0, 1.0])
        uniforms = (2**24 + torch.tensor([-0.5, 0.5, 1.5], dtype=torch.float64)) / (2**24 + 2)
        assert invert_distribution(weights, uniforms).tolist() == [0, 1, 2]


def test_d3pm_divergence_normalises_weights() -> None:
    """D3PM compares targets by weights that are not normalised; weights of zero sum give a divergence of zero."""
    weights = torch.tensor([[2.0, 6.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.1, 0.2]], dtype=torch.float64)
    distributions = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(_normalise(weights), distributions)


def test_entropy_bounded_gamma_is_at_most_a_million() -> None:
    for wrong in (-1e-9, 1e6 + 1):
        with pytest.raises(SettingError, match="gamma"):
            create_sampler({"type": "entropy_bounded", "gamma": wrong}, MASKS, denoiser(), 3)
    create_sampler({"type": "entropy_bounded", "gamma": 1e6}, MASKS, denoiser(), 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.complex64])
def test_token_ids_must_be_integers(dtype: torch.dtype) -> None:
    check_integers("tokens", torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=f"tokens: got dtype {dtype}"):
        check_integers("tokens", torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize(("process", "name"), [(MASKS, "first_hitting"), (WRONG, "ancestral")])
def test_watch_sees_the_state_after_each_step_and_changes_nothing(process: DiffusionProcess, name: str) -> None:
    shown: list[SamplerState] = []
    options = {"steps": 4, "sampler": name, "batch_size": 2}
    found = sample(process, denoiser(process), 3, 5, generator=seeded(), watch=shown.append, **options)  # type: ignore[arg-type]
    assert [len(state.tokens) for state in shown] == [2] * found.step + [1] * found.step
    assert torch.equal(torch.cat([shown[found.step - 1].tokens, shown[-1].tokens]), found.tokens)
    assert [state.step for state in shown[: found.step]] == list(range(1, found.step + 1))
    without = sample(process, denoiser(process), 3, 5, generator=seeded(), **options)  # type: ignore[arg-type]
    assert torch.equal(without.tokens, found.tokens)
