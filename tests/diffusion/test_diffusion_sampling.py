"""Sampling: draws follow proposals, prompts are kept, calls are counted, batch splits have no effect."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import DiffusionInputError, LengthError, SettingError, ShapeError, TokenError
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation, X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess, reverse
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.registry import SAMPLERS
from model_factory.diffusion.samplers.base import (
    Sampler,
    UnknownSamplerError,
    create_sampler,
    default_sampler,
    samplers_for,
)
from model_factory.diffusion.samplers.denoiser import Denoiser, apply_temperature, keep_top_p
from model_factory.diffusion.samplers.sampling import sample
from model_factory.diffusion.samplers.state import SamplerState
from tests.oracles.diffusion_propagation import oracle_sampler, state_of
from tests.oracles.diffusion_toy import VOCABULARY, Toy

N, LENGTH = 6, 10
PROCESSES = {
    "absorbing": DiffusionProcess(AbsorbingGraph(N), CosineNoise()),
    "uniform": DiffusionProcess(UniformGraph(N), CosineNoise()),
}
EVERY = [(kind, name) for kind, process in PROCESSES.items() for name in samplers_for(process.graph)]


class Network:
    """Network whose output at a position depends on all tokens of the row, mask, condition and time."""

    def __init__(self, dim: int) -> None:
        generator = torch.Generator().manual_seed(5)
        self.table = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        self.rows = 0
        self.levels: list[Tensor] = []

    def __call__(self, x_t: Tensor, sigma: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        assert sigma.shape in (x_t.shape[:1], x_t.shape)
        self.levels.append(sigma)
        self.rows += len(x_t)
        near = self.table[x_t] + 0.7 * self.table[x_t].roll(1, 1) + 0.3 * self.table[x_t].roll(-1, 1)
        if mask is not None:
            assert mask.shape == x_t.shape
            near = near * mask[..., None]
        if cond is not None:
            near = near + 3.0 * torch.nn.functional.one_hot(cond, near.shape[-1])[:, None, :]
        return near * (1 + 0.1 * (sigma[:, None] if sigma.dim() == 1 else sigma)[..., None])


def denoiser_for(kind: str, reading: str = "x0", **settings: object) -> Denoiser:
    graph = PROCESSES[kind].graph
    parameterisation = X0Parameterisation(graph) if reading == "x0" else ScoreParameterisation(graph)
    return Denoiser(Network(graph.dim), parameterisation, **settings)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("reading", ["x0", "score"])
def test_samples_do_not_depend_on_batch_split(kind: str, name: str, reading: str) -> None:
    def draw(batch_size: int | None, seed: int = 0) -> SamplerState:
        settings = {"steps": 7, "sampler": name, "batch_size": batch_size}
        return sample(PROCESSES[kind], denoiser_for(kind, reading), 16, LENGTH, generator=seeded(seed), **settings)

    whole = draw(None)
    assert whole.tokens.shape == (16, LENGTH)
    assert bool(((whole.tokens >= 0) & (whole.tokens < N)).all())
    for size in (1, 4, 7):
        split = draw(size)
        assert torch.equal(split.tokens, whole.tokens)
        assert torch.equal(split.network_calls, whole.network_calls)
    assert not torch.equal(draw(None, seed=1).tokens, whole.tokens)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("positions", [[0, 1, 2], [7, 8, 9], [0, 3, 8], list(range(LENGTH))])
def test_sampling_keeps_frozen_positions(kind: str, name: str, positions: list[int]) -> None:
    prompt = torch.randint(N, (5, LENGTH), generator=seeded(3))
    frozen = torch.zeros(LENGTH, dtype=torch.bool)
    frozen[positions] = True
    settings = {"prompt": prompt, "frozen": frozen, "generator": seeded()}
    denoiser = denoiser_for(kind)
    state = sample(PROCESSES[kind], denoiser, 5, LENGTH, steps=6, sampler=name, **settings)
    assert torch.equal(state.tokens[:, frozen], prompt[:, frozen])
    assert bool((state.tokens < N).all())
    for told in denoiser.network.levels:  # a mask shows that a token is noised, other noise only by its level
        assert told.dim() == (1 if kind == "absorbing" else 2)
        assert told.dim() == 1 or torch.equal(told > 0, ~frozen.expand(5, -1))


def test_padding_and_rows_without_prompt_change_no_noise_level() -> None:
    mask = torch.arange(LENGTH) < torch.tensor([10, 6, 3])[:, None]
    frozen = torch.zeros(3, LENGTH, dtype=torch.bool)
    for kept in (frozen, frozen.index_fill(1, torch.tensor([0]), True), mask & (torch.arange(3) == 1)[:, None]):
        denoiser = denoiser_for("uniform")
        settings = {"prompt": torch.zeros(3, LENGTH, dtype=torch.int64), "frozen": kept, "mask": mask, "batch_size": 2}
        state = sample(PROCESSES["uniform"], denoiser, 3, LENGTH, steps=2, generator=seeded(), **settings)
        assert bool((state.tokens[kept] == 0).all())
        levels = denoiser.network.levels
        assert [len(told) for told in levels] == [2, 2, 1, 1]
        if not bool(kept.any()):
            assert all(told.dim() == 1 for told in levels)
        else:
            assert all(
                torch.equal(told == 0, kept[rows])
                for told, rows in zip(levels, [slice(2)] * 2 + [slice(2, 3)] * 2, strict=True)
            )


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_sampling_short_prompt_is_prefix_and_padding_kept(kind: str, name: str) -> None:
    prompt = torch.tensor([3, 1, 4])
    mask = torch.arange(LENGTH) < torch.tensor([10, 6, 3])[:, None]
    settings = {"prompt": prompt, "mask": mask, "generator": seeded()}
    state = sample(PROCESSES[kind], denoiser_for(kind), 3, LENGTH, steps=6, sampler=name, **settings)
    assert torch.equal(state.tokens[:, :3], prompt.expand(3, -1))
    assert bool((state.tokens[~mask] == 0).all())
    if name == "first_hitting":
        assert state.network_calls.tolist() == [7, 3, 0]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_sampling_ends_clean_for_sigma_0_above_zero(kind: str, name: str) -> None:
    process = replace(PROCESSES[kind], schedule=GeometricNoise(0.5, 10.0))
    state = sample(process, denoiser_for(kind), 200, LENGTH, steps=3, sampler=name, generator=seeded())
    assert bool((state.tokens < N).all())
    assert bool((state.t <= 0).all()) or name == "first_hitting"


def test_network_calls_are_counted_per_row() -> None:
    kind = "absorbing"
    frozen = torch.zeros(4, LENGTH, dtype=torch.bool)
    for row, count in enumerate([0, 3, 9, 10]):
        frozen[row, :count] = True
    settings = {"prompt": torch.zeros(4, LENGTH, dtype=torch.int64), "frozen": frozen}

    def run(name: str, steps: int) -> tuple[list[int], int]:
        denoiser = denoiser_for(kind)
        drawn = sample(PROCESSES[kind], denoiser, 4, LENGTH, steps=steps, sampler=name, generator=seeded(), **settings)
        return drawn.network_calls.tolist(), denoiser.network.rows

    assert run("first_hitting", 1) == ([10, 7, 1, 0], 18)
    assert run("ancestral", 50) == ([50] * 4, 200)
    calls, rows = run("ancestral_cache", 2000)
    assert rows == sum(calls)
    assert calls[2:] == [1, 0]
    assert 9 <= calls[0] <= 10
    calls, rows = run("confidence", 5)
    assert rows == sum(calls)
    assert max(calls) <= 5


def test_first_hitting_passes_sigma_of_each_unmasking() -> None:
    """Levels fall from sigma(1), and the share of masks left at each is uniform, as in the forward process."""
    process = PROCESSES["absorbing"]
    levels: list[Tensor] = []
    network = Network(N + 1)

    def listening(x_t: Tensor, sigma: Tensor) -> Tensor:
        levels.append(sigma)
        return network(x_t, sigma)

    sample(process, Denoiser(listening, X0Parameterisation(process.graph)), 2000, LENGTH, generator=seeded())
    passed = torch.stack(levels, 1)
    assert bool((passed.diff(dim=1) <= 0).all())
    lost = -torch.expm1(-passed) / -torch.expm1(-process.schedule.sigma(1.0))
    orders = torch.arange(LENGTH, 0, -1, dtype=torch.float64) / (LENGTH + 1)  # means of order statistics
    torch.testing.assert_close(lost.mean(0), orders, atol=0.01, rtol=0)


@pytest.mark.parametrize("reading", ["x0", "score"])
def test_ancestral_cache_draws_ancestral_samples(reading: str) -> None:
    """Also for a network with time conditioning."""
    tokens = [
        sample(
            PROCESSES["absorbing"],
            denoiser_for("absorbing", reading),
            16,
            20,
            steps=60,
            sampler=name,
            generator=seeded(),
        )
        for name in ("ancestral", "ancestral_cache")
    ]
    assert torch.equal(tokens[0].tokens, tokens[1].tokens)
    assert int(tokens[1].network_calls.max()) <= 20 < 60 == int(tokens[0].network_calls.min())


class Grid(RowGenerators):
    """Grid of uniforms: row i has the i-th pair at every position, so that frequencies are exact to 1 / side."""

    def __init__(self, side: int) -> None:
        middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        self.pairs = torch.cartesian_prod(middle, middle)
        super().__init__(torch.zeros(side * side, dtype=torch.int64))

    def rand(self, *shape: int) -> Tensor:
        if len(shape) == 2:
            return self.pairs[:, :, None].expand(-1, -1, shape[1])
        return self.pairs[:, 1:].expand(-1, *shape)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("step", [0, 2, 3])
def test_steps_draw_from_their_proposal(kind: str, name: str, step: int) -> None:
    """Over a grid of uniform pairs, frequencies of the next token equal the proposal's probabilities."""
    side, toy = 200, Toy.random(1, kind == "absorbing")
    graph = AbsorbingGraph(VOCABULARY) if toy.absorbing else UniformGraph(VOCABULARY)
    sampler = oracle_sampler(toy, DiffusionProcess(graph, LogLinearNoise(1e-3)), name, 4)
    x_t = torch.tensor([[1, VOCABULARY if toy.absorbing else 0, 2]])
    one = state_of(x_t, torch.tensor([[True, False, True]]))
    one = replace(sampler.begin(one), step=step, t=torch.full((1,), 1 - step / 4, dtype=torch.float64))
    probs = sampler.propose(one).probabilities(x_t, one.frozen)[0, 1]
    many = replace(state_of(x_t.expand(side**2, -1), one.frozen.expand(side**2, -1)), generators=Grid(side))
    cache = {key: value.expand(side**2, *value.shape[1:]) for key, value in one.cache.items()}
    stepped = sampler.step(replace(many, step=step, t=one.t.expand(side**2), cache=cache))
    assert bool((stepped.tokens[:, [0, 2]] == x_t[:, [0, 2]]).all())
    frequencies = torch.bincount(stepped.tokens[:, 1], minlength=graph.dim) / side**2
    torch.testing.assert_close(frequencies.double(), probs, atol=2.5 / side, rtol=0)


def test_guidance_temperature_and_top_p() -> None:
    x_t, sigma = torch.full((3, LENGTH), N), torch.full((3,), 0.5, dtype=torch.float64)
    cond = torch.tensor([0, 1, 2])
    plain, full = denoiser_for("absorbing"), denoiser_for("absorbing", cond=cond)
    null, conditioned = plain.output(x_t, sigma), full.output(x_t, sigma)
    guided = replace(full, guidance=3.0)
    torch.testing.assert_close(guided.output(x_t, sigma), null + 3 * (conditioned - null))
    torch.testing.assert_close(replace(full, guidance=0.0).output(x_t, sigma), null)
    rows = torch.tensor([2])
    torch.testing.assert_close(guided.output(x_t[rows], sigma[rows], rows), guided.output(x_t, sigma)[rows])
    assert (plain.calls, full.calls, guided.calls) == (1, 1, 2)

    probs = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    cooled = apply_temperature(probs.log(), 0.5).exp()
    torch.testing.assert_close(cooled, probs**2 / (probs**2).sum())
    assert apply_temperature(probs.log(), 0.0).exp().tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(keep_top_p(probs.log(), 0.8).exp(), torch.tensor([0.625, 0.375, 0, 0]).double())
    torch.testing.assert_close(keep_top_p(probs.log(), 0.81).exp()[2], torch.tensor(0.15 / 0.95).double())
    assert keep_top_p(probs.log(), 1e-9).exp().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_guidance_applies_per_row_in_every_sampler(kind: str, name: str) -> None:
    """Each row follows its condition, in any split."""
    cond = torch.tensor([0, 1, 2, 3] * 8)
    denoiser = denoiser_for(kind, cond=cond, guidance=2.5, temperature=0.9, top_p=0.95)
    drawn = [
        sample(
            PROCESSES[kind], denoiser, 32, LENGTH, steps=12, sampler=name, generator=seeded(), batch_size=size
        ).tokens
        for size in (None, 8)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert float((drawn[0] == cond[:, None]).double().mean()) > 0.6


def test_registry_lists_fitting_samplers() -> None:
    inserting = {name for name in SAMPLERS if SAMPLERS.get(name).variable_length}
    assert set(samplers_for(AbsorbingGraph(3))) == set(SAMPLERS) - inserting
    assert inserting == {"insertion", "thinned_insertion"}
    assert samplers_for(UniformGraph(3)) == ["analytic", "euler", "ancestral", "predictor_corrector"]
    for kind, process in PROCESSES.items():
        assert default_sampler(process.graph) in samplers_for(process.graph), kind
    for name in SAMPLERS:
        assert SAMPLERS.get(name).accuracy in ("exact", "convergent", "neither")
        assert SAMPLERS.get(name).summary


def test_sampler_steps_can_be_called_manually() -> None:
    sampler: Sampler = create_sampler("ancestral", PROCESSES["absorbing"], denoiser_for("absorbing"), 4)
    state = state_of(torch.full((2, LENGTH), N))
    times = []
    while not sampler.is_finished(state):
        state = sampler.step(state)
        times.append(float(state.t[0]))
    assert times == [0.75, 0.5, 0.25, 0.0]
    assert torch.equal(state.tokens, reverse(sampler, state_of(torch.full((2, LENGTH), N))).tokens)


def drawn(**settings: object) -> Callable[[], object]:
    rows = settings.pop("num_samples", 2)
    return lambda: sample(PROCESSES["absorbing"], denoiser_for("absorbing"), rows, LENGTH, **settings)


LONG, SHORT = torch.zeros(11, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
BAD: list[tuple[Callable[[], object], type[DiffusionInputError], str]] = [
    (drawn(prompt=LONG), LengthError, "prompt: got 11 tokens; expected 10 at most"),
    (drawn(prompt=SHORT + N), TokenError, "prompt: got token 6; expected ids from 0 to 5"),
    (drawn(prompt=SHORT - 1), TokenError, "prompt: got token -1"),
    (drawn(prompt=SHORT.expand(3, -1)), ShapeError, "prompt: got shape"),
    (drawn(prompt=SHORT.float()), ShapeError, "prompt"),
    (drawn(frozen=SHORT == 0), ShapeError, "frozen: got .*; expected a prompt"),
    (drawn(prompt=SHORT, frozen=SHORT), ShapeError, "frozen: got dtype torch.int64; expected torch.bool"),
    (drawn(prompt=SHORT, frozen=LONG[:10] == 0), LengthError, "frozen: got a position after the prompt's 4 tokens"),
    (drawn(prompt=SHORT, frozen=LONG[:5] == 0), LengthError, "frozen: got 5 positions"),
    (drawn(mask=torch.ones(2, 9, dtype=torch.bool)), ShapeError, "mask"),
    (drawn(prompt=SHORT, frozen=[True] * 4), ShapeError, "frozen: got a list; expected a bool tensor"),
    (drawn(mask=[[True] * 10] * 2), ShapeError, "mask: got a list"),
    (drawn(num_samples=0), SettingError, "num_samples: got 0; expected a whole number, 1 or more"),
    (drawn(num_samples=1.5), SettingError, "num_samples: got 1.5"),
    (drawn(generator=3), SettingError, "generator: got 3; expected a torch.Generator"),
    (drawn(sampler=3), UnknownSamplerError, "sampler: got 3; expected one of"),
    (drawn(steps=0, sampler="ancestral"), SettingError, "steps: got 0"),
    (drawn(batch_size=0), SettingError, "batch_size"),
    (drawn(sampler="ancestrl"), UnknownSamplerError, "did you mean 'ancestral'"),
    (lambda: denoiser_for("absorbing", temperature=-1.0), SettingError, "temperature: got -1"),
    (lambda: denoiser_for("absorbing", temperature="hot"), SettingError, "temperature: got 'hot'"),
    (lambda: denoiser_for("absorbing", top_p=0.0), SettingError, "top_p: got 0"),
    (
        lambda: create_sampler("first_hitting", PROCESSES["uniform"], denoiser_for("uniform"), 3),
        SettingError,
        "first_hitting for UniformGraph; expected an absorbing process",
    ),
    (
        lambda: sample(PROCESSES["absorbing"], denoiser_for("absorbing", cond=torch.zeros(3)), 2, LENGTH),
        LengthError,
        "cond: got 3 rows; expected 2",
    ),
]


def test_prompt_tokens_at_unfrozen_positions_are_ignored() -> None:
    kept = torch.arange(LENGTH) < 3
    prompt = torch.where(kept, 1, -100)
    for name in samplers_for(PROCESSES["absorbing"].graph):
        tokens = sample(
            PROCESSES["absorbing"], denoiser_for("absorbing"), 2, LENGTH, sampler=name, prompt=prompt, frozen=kept
        ).tokens
        assert bool((tokens[:, :3] == 1).all()), name
        assert bool((tokens >= 0).all()), name


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_named(call: Callable[[], object], error: type[DiffusionInputError], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
