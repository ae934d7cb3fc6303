"""The count form of the bound: exact by enumeration, with less variance, the same for any split of the batch."""

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, ShapeError, TimeError, TokenError
from model_factory.diffusion.objectives.block import BlockSubsLoss
from model_factory.diffusion.objectives.discrete_time import D3pmLoss, DiscreteNoise, DiscreteSubsLoss, StepCountDraw
from model_factory.diffusion.objectives.losses import Objective, ScoreEntropyLoss, SubsLoss, UdlmLoss
from model_factory.diffusion.objectives.noise_draws import CountDraw, MaskCounts
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation, X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import GiddLoss, HybridGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise, NoiseSchedule
from model_factory.diffusion.randomness import RowGenerators
from tests.diffusion.test_oracle_block import block_oracle
from tests.oracles.diffusion_bounds import exact_bound, quadrature
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy
from tests.oracles.mask_counts import BlockLoss, chain, entropy

GRAPH = AbsorbingGraph(VOCABULARY)
NONE_FROZEN = torch.zeros(64, LENGTH, dtype=torch.bool)
ORDERS = list(permutations(range(LENGTH)))


def process(schedule: NoiseSchedule | None = None) -> DiffusionProcess:
    return DiffusionProcess(GRAPH, schedule or LogLinearNoise(0.0))


def counted(objective: Objective) -> Objective:
    found = objective.by_counts()
    assert found is not None
    return found


class Given(RowGenerators):
    """Streams whose first draws are given, [B, L]; later ones are 0.4."""

    def __init__(self, first: Tensor) -> None:
        super().__init__(torch.arange(len(first)))
        self.values: Tensor | None = first

    def rand(self, *shape: int) -> Tensor:
        first, self.values = self.values, None
        return torch.full((len(self), *shape), 0.4, dtype=torch.float64) if first is None else first


def every_draw(toy: Toy, frozen: Tensor, runs: list[list[int]]) -> Iterator[tuple[Tensor, Tensor, Given, Tensor]]:
    """Yield all x_0 [27, 3], times [27, 3], streams and probabilities [27] of each order and each number of masks.

    Runs are lists of positions; each has a separate number of masks.
    """
    sizes = [int((~frozen[run]).sum()) for run in runs]
    choices = list(product(*(range(1, max(size, 1) + 1) for size in sizes)))
    for order, chosen in product(ORDERS, choices):
        t = torch.zeros(LENGTH, dtype=torch.float64)
        for run, size, k in zip(runs, sizes, chosen, strict=True):
            t[run] = (k - 0.5) / max(size, 1) - 1e-6 * run[0]  # runs of the same k remain apart
        draws = 1 - (torch.tensor(order) + 0.5).to(torch.float64) / LENGTH  # the first in the order is masked first
        rows = len(toy.data)
        share = toy.joint.flatten() / len(ORDERS) / len(choices)
        yield toy.data, t.expand(rows, -1), Given(draws.expand(rows, -1).clone()), share


def enumerate_counts(toy: Toy, objective: Objective, network: Any, frozen: Tensor, runs: list[list[int]]) -> Tensor:
    """Return the expected loss in nats per sequence over all texts, numbers of masks and subsets, [], with its gradient."""
    total = torch.zeros((), dtype=torch.float64)
    for x_0, t, streams, share in every_draw(toy, frozen, runs):
        parts = objective.parts(network, x_0, t if len(runs) > 1 else t[:, 0], streams, frozen.expand(len(x_0), -1))
        total = total + (share * parts.total.sum(1)).sum()
    return total


def conditional_entropy(toy: Toy, frozen: Tensor) -> float:
    given = toy.joint.sum([place for place in range(LENGTH) if not frozen[place]]) if frozen.any() else torch.ones(1)
    return toy.entropy + float((given * given.log()).sum())


OBJECTIVES = [
    SubsLoss(process()),
    SubsLoss(process(CosineNoise(0.0))),
    SubsLoss(process(LogLinearNoise(1e-3))),  # the bound at eps 0, whatever eps was trained
    SubsLoss(process(GeometricNoise())),
    SubsLoss(process(), ScoreParameterisation(GRAPH)),
    ScoreEntropyLoss(process(), X0Parameterisation(GRAPH)),
    ScoreEntropyLoss(process(LogLinearNoise(1e-3)), ScoreParameterisation(GRAPH, True)),
    ScoreEntropyLoss(process(CosineNoise(0.0)), ScoreParameterisation(GRAPH, False)),
    GiddLoss(process()),
]


@pytest.mark.parametrize("prompt", [[], [0], [1], [0, 2]])
@pytest.mark.parametrize("index", range(len(OBJECTIVES)))
def test_count_form_of_oracle_is_conditional_entropy(index: int, prompt: list[int]) -> None:
    toy, objective = Toy.random(3, absorbing=True), OBJECTIVES[index]
    frozen = torch.tensor([place in prompt for place in range(LENGTH)])

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        log_x_0 = toy.oracle(x_t, sigma.clamp_min(1e-9))  # the posterior under masks does not depend on sigma
        return objective.parameterisation.output_from_x0(log_x_0, x_t, sigma)

    found = enumerate_counts(toy, counted(objective), network, frozen, [[0, 1, 2]])
    assert float(found) == pytest.approx(conditional_entropy(toy, frozen), abs=1e-12)


@pytest.mark.parametrize("prompt", [[], [0], [0, 1]])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_count_form_of_blocks_is_conditional_entropy(block_size: int, prompt: list[int]) -> None:
    toy, objective = Toy.random(4, absorbing=True), BlockSubsLoss(process(), block_size)
    frozen = torch.tensor([place in prompt for place in range(LENGTH)])
    runs = [list(range(start, min(start + block_size, LENGTH))) for start in range(0, LENGTH, block_size)]

    def network(doubled: Tensor, sigma: Tensor) -> Tensor:
        return block_oracle(toy, block_size, doubled, sigma.clamp_min(1e-9))

    found = enumerate_counts(toy, counted(objective), network, frozen, runs)
    assert float(found) == pytest.approx(conditional_entropy(toy, frozen), abs=1e-12)


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(1e-2), DiscreteNoise(4, "cosine")])
def test_count_form_of_steps_has_their_weights(schedule: NoiseSchedule, steps: int) -> None:
    toy, objective = Toy.random(5, absorbing=True), DiscreteSubsLoss(process(schedule), steps)
    grid = (((i + 1) / steps, 1 / steps) for i in range(steps))
    wanted = sum(exact_bound(toy, objective, toy.oracle, grid))
    found = enumerate_counts(toy, counted(objective), toy.oracle, torch.zeros(LENGTH, dtype=torch.bool), [[0, 1, 2]])
    assert float(found) == pytest.approx(wanted, abs=1e-12)
    assert wanted > toy.entropy + 1e-3


@pytest.mark.parametrize("parameterisation", [X0Parameterisation(GRAPH), ScoreParameterisation(GRAPH, False)])
def test_count_form_has_the_gradient_of_the_bound(parameterisation: Any) -> None:
    toy, objective = Toy.random(6, absorbing=True), ScoreEntropyLoss(process(), parameterisation)
    weights = torch.randn(len(toy.states), LENGTH, toy.dim, dtype=torch.float64, requires_grad=True)
    place_values = torch.tensor([toy.dim**2, toy.dim, 1])

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        output = weights[(x_t * place_values).sum(-1)]
        return objective.parameterisation.output_from_x0(output.log_softmax(-1), x_t, sigma)

    everywhere = torch.zeros(LENGTH, dtype=torch.bool)
    value = enumerate_counts(toy, counted(objective), network, everywhere, [[0, 1, 2]])
    (found,) = torch.autograd.grad(value, weights)
    total = torch.zeros((), dtype=torch.float64)
    for t, share in quadrature(12):  # exact: a polynomial in t
        for shown in product([False, True], repeat=LENGTH):
            masked = ~torch.tensor(shown)
            probability = share * toy.joint.flatten() * t ** int(masked.sum()) * (1 - t) ** int((~masked).sum())
            x_t, times = toy.data.masked_fill(masked, VOCABULARY), torch.full((len(toy.data),), t, dtype=torch.float64)
            output = network(x_t, objective.schedule.sigma(times))
            total = total + (probability[:, None] * objective.diffusion(output, x_t, toy.data, times)).sum()
    (wanted,) = torch.autograd.grad(total, weights)
    assert float(value.detach()) == pytest.approx(float(total.detach()), abs=1e-12)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_time_given_count_is_beta_distributed() -> None:
    """The share of masks given k has the distribution of times t at which k of n tokens are masked: Beta(k, n - k + 1)."""
    rows, n = 40_000, 5
    t, frozen = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows, torch.zeros(rows, n + 1, dtype=torch.bool)
    frozen[:, 2] = True
    noised = CountDraw().draw(process(), torch.zeros_like(frozen).long(), t, streams(rows), frozen)
    masked = GRAPH.is_masked(noised.x_t)
    for k in range(1, n + 1):
        here = masked.sum(1) == k
        assert int(here.sum()) == rows // n
        beta = torch.distributions.Beta(float(k), float(n - k + 1))
        error = (beta.variance / here.sum()) ** 0.5
        assert abs(float(noised.t[here].mean() - beta.mean)) < 4 * float(error)
        assert float(noised.t[here].var() / beta.variance) == pytest.approx(1, abs=0.1)
        first = here & masked[:, 0]  # the time does not depend on the subset
        assert abs(float(noised.t[first].mean() - beta.mean)) < 6 * float(error)
    shares = masked.double().mean(0)
    assert float(shares[2]) == 0
    torch.testing.assert_close(shares[[0, 1, 3, 4, 5]], torch.full((5,), 0.6, dtype=torch.float64), atol=0.01, rtol=0)


def streams(rows: int) -> RowGenerators:
    return RowGenerators.from_seed(3, torch.arange(rows))


@pytest.mark.parametrize("kind", ["continuous", "steps"])
def test_count_form_of_time_conditioned_network_is_its_bound(kind: str) -> None:
    """An inexact network that depends on sigma, by Monte Carlo with a control: five standard errors."""
    toy, rows = Toy.random(7, absorbing=True), 30_000
    schedule = CosineNoise(0.0) if kind == "continuous" else DiscreteNoise(4, "cosine")
    objective = SubsLoss(process(schedule)) if kind == "continuous" else DiscreteSubsLoss(process(schedule), 4)

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        tilt = torch.tensor([0.0, 3.0, -3.0, 0.0], dtype=torch.float64)
        return toy.oracle(x_t, sigma) + tilt * torch.exp(-sigma)[:, None, None]

    times = quadrature(60) if kind == "continuous" else (((i + 1) / 4, 1 / 4) for i in range(4))
    wanted = sum(exact_bound(toy, objective, network, times))
    flat = sum(exact_bound(toy, objective, toy.oracle, quadrature(2)))
    x_0 = toy.data[torch.multinomial(toy.joint.flatten(), rows, True, generator=torch.Generator().manual_seed(1))]
    t = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    values = counted(objective).parts(network, x_0, t, streams(rows)).total.sum(1)
    assert abs(wanted - flat) > 0.05
    assert abs(float(values.mean()) - wanted) < 5 * float(values.std()) / rows**0.5


def test_steps_that_noise_nothing_have_no_weight() -> None:
    """beta_start 1e-20 leaves alpha at 1 after the first of 4 steps."""
    objective = DiscreteSubsLoss(process(DiscreteNoise(4, "linear", 1e-20, 0.9)), 4)
    assert float(objective.schedule.alpha(0.25)) == 1
    noised = counted(objective).draw(
        torch.zeros(64, LENGTH, dtype=torch.long), torch.ones(64), streams(64), NONE_FROZEN
    )
    assert bool((noised.t > 0.25).all())
    assert noised.weight is not None
    assert bool(torch.isfinite(noised.weight).all())


def test_levels_outside_the_schedule_get_its_ends() -> None:
    draw, schedule = CountDraw(), GeometricNoise(0.1, 2.0)
    counts = MaskCounts(*torch.ones(2, 3, dtype=torch.long), torch.tensor([1e-9, 0.5, 1.0], dtype=torch.float64))
    times = draw.times(process(schedule), counts, None)
    torch.testing.assert_close(schedule.sigma(times), torch.tensor([0.1, 0.6931471805599453, 2.0], dtype=torch.float64))
    assert float(times[0]) > 0


@pytest.mark.parametrize("stay", [0.6, 0.7, 0.8])
def test_count_form_has_a_quarter_of_the_variance_of_uniform_times(stay: float) -> None:
    joint = chain(stay)
    block = BlockLoss(joint)
    mean, variance = block.by_count()
    by_time, other = block.by_time(1e-3, 1.0)
    assert mean == pytest.approx(entropy(joint), abs=1e-12)
    assert by_time == pytest.approx(entropy(joint), abs=2e-3)
    assert variance < other / 4
    assert block.by_time(0.5, 1.0)[0] > mean * 1.02  # clipped times have a bias


def test_loss_of_a_uniform_network_has_no_variance() -> None:
    x_0 = torch.randint(VOCABULARY, (64, 10), generator=torch.Generator().manual_seed(0))
    frozen = torch.rand(64, 10, generator=torch.Generator().manual_seed(1)) < 0.3
    t = torch.rand(64, generator=torch.Generator().manual_seed(2), dtype=torch.float64).clamp_min(1e-9)
    objectives = [SubsLoss(process()), GiddLoss(process()), ScoreEntropyLoss(process(CosineNoise(1e-3)))]
    for objective in (*objectives, BlockSubsLoss(process(), 4)):
        parts = counted(objective).parts(
            lambda x, _: torch.zeros(*x.shape, GRAPH.dim, dtype=torch.float64), x_0, t, streams(64), frozen
        )
        free = (~frozen).sum(1)
        torch.testing.assert_close(parts.total.sum(1), free * torch.log(torch.tensor(3.0, dtype=torch.float64)))


def test_fully_frozen_rows_and_blocks_have_no_loss_and_finite_gradients() -> None:
    x_0, frozen = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.bool)
    frozen[0], frozen[1, :4] = True, True
    for objective in (SubsLoss(process()), BlockSubsLoss(process(), 4), DiscreteSubsLoss(process(), 4)):
        weights = torch.zeros(GRAPH.dim, dtype=torch.float64, requires_grad=True)
        t = torch.tensor([0.3, 0.9], dtype=torch.float64)
        parts = counted(objective).parts(lambda x, _, w=weights: w.expand(*x.shape, -1), x_0, t, streams(2), frozen)
        assert float(parts.total[0].sum()) == 0
        assert float(parts.total[1, :4].sum()) == 0
        (gradient,) = torch.autograd.grad(parts.total.sum(), weights)
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().sum()) > 0


def test_objectives_without_a_count_form() -> None:
    class Own(SubsLoss):
        """Custom loss, which inherits no count form."""

    uniform = DiffusionProcess(UniformGraph(3), LogLinearNoise())
    hybrid = DiffusionProcess(*HybridGraph(3).at_pace(LogLinearNoise()))
    without = [UdlmLoss(uniform), ScoreEntropyLoss(uniform), D3pmLoss(uniform, 4), GiddLoss(hybrid), Own(process())]
    for objective in without:
        assert objective.by_counts() is None
        with pytest.raises(SettingError, match="times: got count; expected uniform"):
            objective.trained_by_counts()


def test_training_by_counts_needs_alpha_from_1_to_0() -> None:
    for schedule in (LogLinearNoise(1e-3), GeometricNoise()):
        with pytest.raises(SettingError, match="eps: 0"):
            SubsLoss(process(schedule)).trained_by_counts()
    assert isinstance(SubsLoss(process()).trained_by_counts().noise_draw, CountDraw)
    assert isinstance(DiscreteSubsLoss(process(CosineNoise()), 3).trained_by_counts().noise_draw, StepCountDraw)


def test_count_draw_checks_its_arguments() -> None:
    objective, x_0 = counted(SubsLoss(process())), torch.zeros(2, 3, dtype=torch.long)

    def network(x_t: Tensor, _: Tensor) -> Tensor:
        return torch.zeros(*x_t.shape, GRAPH.dim)

    half = torch.full((2,), 0.5)
    with pytest.raises(TokenError):
        objective.parts(network, x_0 + VOCABULARY, half)
    with pytest.raises(ShapeError):
        objective.parts(network, x_0, half, None, torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(TimeError):
        objective.parts(network, x_0, half * 0)
    with pytest.raises(ShapeError):
        objective.parts(network, x_0, torch.full((3,), 0.5))
    with pytest.raises(ShapeError, match="one time for each row"):
        counted(DiscreteSubsLoss(process(), 4)).parts(network, x_0, torch.full((2, 3), 0.5))
