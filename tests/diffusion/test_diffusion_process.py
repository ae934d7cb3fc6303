"""Corruption, random streams and stratified times: exact, and the same for any split of a batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import (
    DiffusionInputError,
    SettingError,
    ShapeError,
    SigmaError,
    TimeError,
    TokenError,
)
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise, NoiseSchedule
from model_factory.diffusion.randomness import RowGenerators, uniform
from model_factory.diffusion.time_strata import stratified_times


class Chosen(RowGenerators):
    """RowGenerators that return given uniforms."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__(torch.zeros(len(values[0]), dtype=torch.int64))
        self.values = list(values)

    def rand(self, *shape: int) -> Tensor:
        return self.values.pop(0).reshape(-1, *shape)


@pytest.mark.parametrize("schedule", [LogLinearNoise(1e-3), CosineNoise(0.0), GeometricNoise()])
@pytest.mark.parametrize("t", [1e-6, 0.3, 0.9])
def test_corruption_probability_matches_schedule(schedule: NoiseSchedule, t: float) -> None:
    """The threshold is 1 - alpha(t) up to rounding: corruption uses the alpha of the loss weight."""
    lost = -torch.expm1(-schedule.sigma(t))
    uniforms = (lost * torch.tensor([0.0, 0.5, 1 - 1e-12, 1 + 1e-12, 1.05], dtype=torch.float64))[:, None]
    x_0, times = torch.ones(5, 1, dtype=torch.int64), torch.full((5,), t, dtype=torch.float64)
    noisy = DiffusionProcess(AbsorbingGraph(4), schedule).corrupt(x_0, times, Chosen(uniforms))
    assert noisy[:, 0].tolist() == [4, 4, 4, 1, 1]
    token_uniforms = torch.tensor([0.0, 0.24, 0.26, 0.5, 0.99], dtype=torch.float64)[:, None]
    mixed = DiffusionProcess(UniformGraph(4), schedule).corrupt(x_0, times, Chosen(uniforms, token_uniforms))
    assert mixed[:, 0].tolist() == [0, 0, 1, 1, 1]


def test_corruption_times_may_differ_between_blocks() -> None:
    process = DiffusionProcess(AbsorbingGraph(4), LogLinearNoise(0.0))
    t = torch.tensor([[0.1, 0.1, 1.0, 1.0]], dtype=torch.float64).expand(1000, -1)
    masked = process.corrupt(torch.zeros(1000, 4, dtype=torch.int64), t, torch.Generator().manual_seed(0)) == 4
    assert bool(masked[:, 2:].all())
    assert 0.07 < float(masked[:, :2].double().mean()) < 0.13


@pytest.mark.parametrize("graph", [AbsorbingGraph(5), UniformGraph(5)])
def test_corruption_keeps_frozen_positions(graph: AbsorbingGraph | UniformGraph) -> None:
    process = DiffusionProcess(graph, LogLinearNoise(0.0))
    x_0 = torch.randint(0, 5, (6, 8))
    frozen = torch.rand(6, 8) < 0.5
    x_0[frozen] = 999  # a padding id outside the vocabulary
    noisy = process.corrupt(x_0, torch.ones(6), frozen=frozen)
    assert bool((noisy[frozen] == 999).all())
    assert bool((noisy[~frozen] < graph.dim).all())


@pytest.mark.parametrize("graph", [AbsorbingGraph(5), UniformGraph(5)])
def test_corruption_does_not_depend_on_batch_split(graph: AbsorbingGraph | UniformGraph) -> None:
    process = DiffusionProcess(graph, CosineNoise())
    x_0 = torch.randint(0, 5, (16, 12), generator=torch.Generator().manual_seed(1))

    def noised(rows: Tensor) -> Tensor:
        t = stratified_times(rows, 16, seed=7)
        return process.corrupt(x_0[rows], t, RowGenerators.from_seed(7, rows))

    everyone = torch.arange(16)
    whole = noised(everyone)
    for parts in (everyone.split(4), everyone.split(1), (everyone[::2], everyone[1::2])):
        for rows in parts:
            assert torch.equal(noised(rows), whole[rows])


def test_strata_are_each_filled_once_per_global_batch() -> None:
    rows = torch.arange(64)
    for seed in range(20):
        t = stratified_times(rows, 64, seed)
        assert bool(((t > 0) & (t <= 1)).all())
        assert sorted(torch.ceil(t * 64).long().tolist()) == list(range(1, 65))
        split = torch.cat([stratified_times(part, 64, seed) for part in rows.split(16)])
        assert torch.equal(split, t)
    assert not torch.equal(stratified_times(rows, 64, 0), stratified_times(rows, 64, 1))
    late = stratified_times(rows, 64, 0, t_min=0.5)
    assert float(late.min()) > 0.5
    assert abs(float(torch.stack([stratified_times(rows, 64, seed)[5] for seed in range(500)]).mean()) - 0.5) < 0.05


def test_strata_and_noise_of_one_seed_are_independent() -> None:
    t = torch.cat([stratified_times(torch.arange(64), 64, seed) for seed in range(100)])
    noise = torch.cat([RowGenerators.from_seed(seed, torch.arange(64)).rand(2) for seed in range(100)])
    for draws in noise.T:
        assert abs(float(((t - 0.5) * (draws - 0.5)).mean()) * 12) < 4 / len(t) ** 0.5


def test_streams_do_not_depend_on_other_rows() -> None:
    def seeded(rows: int) -> list[RowGenerators]:
        generator = torch.Generator().manual_seed(3)
        return [RowGenerators.from_generator(generator, rows) for _ in range(16 // rows)]

    whole = seeded(16)[0].rand(9)
    for rows in (1, 4, 8):
        assert torch.equal(torch.cat([stream.rand(9) for stream in seeded(rows)]), whole)
    streams = seeded(16)[0]
    streams.rand(3)
    later = streams[4:8].rand(6)
    assert torch.equal(later, whole[4:8, 3:])


def test_streams_are_uniform_and_independent() -> None:
    draws = RowGenerators.from_seed(0, torch.arange(256)).rand(4096)
    assert 0 <= float(draws.min()) < 1e-5 < 1 - 1e-5 < float(draws.max()) < 1
    counts = torch.histc(draws, bins=64, min=0, max=1)
    chi_squared = float(((counts - draws.numel() / 64) ** 2 / (draws.numel() / 64)).sum())
    assert 25 < chi_squared < 120  # 63 degrees of freedom
    centred = draws - 0.5
    for other in (centred.roll(1, 0), centred.roll(1, 1), centred.roll((1, 1), (0, 1))):
        assert abs(float((centred * other).mean()) * 12) < 5 / draws.numel() ** 0.5


X, HALF = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0.5, 0.5])
GRAPH = AbsorbingGraph(3)
PROCESS = DiffusionProcess(GRAPH, LogLinearNoise())
BAD: list[tuple[Callable[[], object], type[DiffusionInputError], str]] = [
    (lambda: PROCESS.corrupt(X + 3, HALF), TokenError, "x_0: got token 3; expected ids from 0 to 2"),
    (lambda: PROCESS.corrupt(X - 1, HALF), TokenError, "x_0: got token -1"),
    (lambda: PROCESS.corrupt(X.float(), HALF), ShapeError, "integer token ids"),
    (lambda: PROCESS.corrupt(X, HALF * 0), TimeError, r"t: got 0.0; expected a time in \(0, 1\]"),
    (lambda: PROCESS.corrupt(X, HALF * 3), TimeError, "t: got 1.5"),
    (lambda: PROCESS.corrupt(X, torch.ones(3)), ShapeError, "sigma"),
    (lambda: PROCESS.corrupt(X, HALF, frozen=X), ShapeError, "frozen"),
    (
        lambda: PROCESS.corrupt(X, HALF, RowGenerators.from_seed(0, torch.arange(3))),
        ShapeError,
        "generator: got 3 rows",
    ),
    (lambda: GRAPH.transition(X, HALF * float("nan")), SigmaError, "sigma: got nan; expected a finite number"),
    (lambda: GRAPH.sample_transition(X, HALF * float("inf")), SigmaError, "sigma: got inf"),
    (lambda: GRAPH.score_entropy(torch.zeros(2, 3, 4), -HALF, X, X), SigmaError, "sigma: got -0.5"),
    (lambda: GRAPH.score_entropy(torch.zeros(2, 3, 4), HALF, X + 4, X), TokenError, "x_t: got token 4"),
    (lambda: GRAPH.score_entropy(torch.zeros(2, 3, 4), HALF, X, X + 3), TokenError, "x_0: got token 3"),
    (lambda: GRAPH.score_entropy(torch.zeros(2, 3, 3), HALF, X, X), ShapeError, r"log_score: got shape \[2, 3, 3\]"),
    (lambda: GRAPH.score_entropy(torch.zeros(2, 3, 4), HALF, X, X[:, :2]), ShapeError, r"x_0: got shape \[2, 2\]"),
    (lambda: GRAPH.staggered_score(torch.zeros(2, 3, 3), HALF), ShapeError, r"score: .*; expected \[2, 3, 4\]"),
    (lambda: GRAPH.reverse_rate(X, torch.zeros(2, 3, 3)), ShapeError, "score: got shape"),
    (lambda: UniformGraph(0), SettingError, "num_tokens: got 0; expected a whole number, 1 or more"),
    (lambda: UniformGraph(2.5), SettingError, "num_tokens: got 2.5"),
    (lambda: AbsorbingGraph(0), SettingError, "num_tokens"),
    (lambda: stratified_times(torch.tensor([4]), 4, 0), TokenError, "rows: got token 4"),
    (lambda: stratified_times(torch.tensor([0]), 0, 0), SettingError, "batch_size"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_named(call: Callable[[], object], error: type[DiffusionInputError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)


def test_torch_generator_draws_float64() -> None:
    draws = uniform((3, 4), torch.Generator().manual_seed(0))
    assert draws.dtype == torch.float64
    assert draws.shape == (3, 4)
