"""Conversion between logits, x0 and score, and per-token parts of losses."""

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError, ShapeError
from model_factory.diffusion.objectives.discrete_time import DiscreteSubsLoss
from model_factory.diffusion.objectives.losses import Objective, ScoreEntropyLoss, SubsLoss, UdlmLoss
from model_factory.diffusion.objectives.parameterisation import (
    Parameterisation,
    ScoreParameterisation,
    X0Parameterisation,
)
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import GeometricNoise, LogLinearNoise
from model_factory.diffusion.randomness import RowGenerators

GRAPHS = [UniformGraph(5), AbsorbingGraph(5), Graph(5, torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.5]))]


def readings(graph: Graph) -> list[Parameterisation]:
    return [X0Parameterisation(graph), ScoreParameterisation(graph, False), ScoreParameterisation(graph, True)]


def noisy(graph: Graph, rows: int = 8, length: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randint(graph.dim, (rows, length), generator=generator)
    logits = torch.randn(rows, length, graph.dim, generator=generator, dtype=torch.float64)
    return x_t, torch.rand(rows, generator=generator, dtype=torch.float64) * 3 + 0.05, logits


@pytest.mark.parametrize("graph", GRAPHS)
def test_parameterisations_convert_both_ways(graph: Graph) -> None:
    x_t, sigma, logits = noisy(graph)
    probs = X0Parameterisation(graph).log_x0(logits, x_t, sigma)
    torch.testing.assert_close(probs.exp().sum(-1), torch.ones(x_t.shape, dtype=torch.float64))
    score = graph.log_score_from_x0(probs, x_t, sigma)
    assert bool((score.gather(-1, x_t[..., None]) == 0).all())
    for reading in readings(graph):
        output = reading.output_from_x0(probs, x_t, sigma)
        torch.testing.assert_close(reading.log_x0(output, x_t, sigma).exp(), probs.exp(), atol=1e-12, rtol=0)
        torch.testing.assert_close(reading.log_score(output, x_t, sigma).exp(), score.exp(), atol=1e-10, rtol=1e-10)
        output = reading.output_from_score(score, x_t, sigma)
        torch.testing.assert_close(reading.log_x0(output, x_t, sigma).exp(), probs.exp(), atol=1e-12, rtol=0)


def test_sigma_shift_matches_sedd() -> None:
    graph = AbsorbingGraph(5)
    x_t, sigma, logits = noisy(graph)
    expected = logits - torch.log(torch.expm1(sigma))[:, None, None] - torch.log(torch.tensor(5.0).double())
    expected = expected.scatter(-1, x_t[..., None], 0.0)
    torch.testing.assert_close(ScoreParameterisation(graph).log_score(logits, x_t, sigma), expected)
    plain = UniformGraph(5)
    x_t, sigma, logits = noisy(plain)
    own = ScoreParameterisation(plain).log_score(logits, x_t, sigma)
    torch.testing.assert_close(own, logits.scatter(-1, x_t[..., None], 0.0))


def test_subs_masks_have_zero_probability_and_rest_is_copied() -> None:
    graph = AbsorbingGraph(5)
    x_t, sigma, logits = noisy(graph)
    probs = X0Parameterisation(graph).log_x0(logits, x_t, sigma).exp()
    assert bool((probs[..., 5] == 0).all())
    kept = x_t < 5
    assert torch.equal(probs[kept].argmax(-1), x_t[kept])
    assert bool((probs[kept].amax(-1) == 1).all())


def test_parameterisation_refuses_wrong_output_size() -> None:
    x_t = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"output: got \(2, 3, 5\); expected \(2, 3, 6\)"):
        X0Parameterisation(AbsorbingGraph(5)).log_x0(torch.zeros(2, 3, 5), x_t, torch.ones(2))


def objectives(schedule: LogLinearNoise | GeometricNoise) -> list[Objective]:
    absorbing, uniform = (DiffusionProcess(graph, schedule) for graph in (AbsorbingGraph(5), UniformGraph(5)))
    return [
        ScoreEntropyLoss(absorbing),
        ScoreEntropyLoss(uniform),
        SubsLoss(absorbing),
        UdlmLoss(uniform),
        DiscreteSubsLoss(absorbing, 8),
    ]


@pytest.mark.parametrize("schedule", [LogLinearNoise(), GeometricNoise(0.1, 5.0)])
def test_loss_parts_per_token_skip_frozen_positions(schedule: LogLinearNoise | GeometricNoise) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(5, (7, 9), generator=generator)
    frozen = torch.rand(7, 9, generator=generator) < 0.3
    x_0[frozen] = 5 if isinstance(schedule, LogLinearNoise) else 77
    t = torch.rand(7, generator=generator, dtype=torch.float64).clamp_min(0.05)
    for objective in objectives(schedule):
        table = torch.randn(100, objective.graph.dim, generator=generator).requires_grad_()
        calls: list[int] = []

        def network(x_t: Tensor, sigma: Tensor, table: Tensor = table, calls: list[int] = calls) -> Tensor:
            calls.append(len(x_t))
            return table[x_t] * (1 + sigma[:, None, None].float())

        rows = RowGenerators.from_seed(1, torch.arange(7))
        parts = objective.parts(network, x_0, t, rows, frozen)
        assert len(calls) == 1 + objective.needs_limit + objective.needs_start
        for part in (parts.diffusion, parts.prior, parts.reconstruction):
            assert part.shape == (7, 9)
            assert part.dtype == torch.float64
            assert bool((part[frozen] == 0).all())
            assert bool((part >= 0).all())
        assert bool((parts.reconstruction > 0).any()) == objective.needs_start
        assert float(parts.prior.detach().sum()) > 0
        parts.total.sum().backward()
        assert bool(torch.isfinite(table.grad).all())
        assert float(table.grad.abs().sum()) > 0
        calls.clear()
        objective.parts(network, x_0, t, RowGenerators.from_seed(1, torch.arange(7)), frozen, ends=False)
        assert len(calls) == 1


def test_loss_times_may_differ_within_a_row() -> None:
    """Each token's loss is evaluated at its own time, as blocks need."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(5, (4, 6), generator=generator)
    t = torch.rand(4, 6, generator=generator, dtype=torch.float64).clamp_min(0.05)
    for objective in objectives(LogLinearNoise()):
        x_t = objective.process.corrupt(x_0, t, generator)
        output = torch.randn(4, 6, objective.graph.dim, generator=generator)
        each = [objective.diffusion(output[:, [k]], x_t[:, [k]], x_0[:, [k]], t[:, k]) for k in range(6)]
        torch.testing.assert_close(objective.diffusion(output, x_t, x_0, t), torch.cat(each, 1))


def test_objectives_refuse_unfit_processes() -> None:
    absorbing, uniform = (DiffusionProcess(graph, LogLinearNoise()) for graph in (AbsorbingGraph(5), UniformGraph(5)))
    with pytest.raises(SettingError, match="UdlmLoss fits"):
        SubsLoss(uniform)
    with pytest.raises(SettingError, match="SubsLoss fits"):
        UdlmLoss(absorbing)
    with pytest.raises(SettingError, match="num_steps"):
        DiscreteSubsLoss(absorbing, 0)


def test_discrete_times_are_on_the_grid() -> None:
    objective = DiscreteSubsLoss(DiffusionProcess(AbsorbingGraph(5), LogLinearNoise()), 10)
    grid = torch.arange(1, 11, dtype=torch.float64) / 10
    torch.testing.assert_close(objective.on_grid(grid), grid)
    torch.testing.assert_close(objective.on_grid(grid - 0.05), grid)
    weights = objective.weight(grid)
    torch.testing.assert_close(weights, 1 / grid)
