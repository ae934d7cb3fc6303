"""`Objective.parts`: one time for corruption, network and weight, and the inputs of the network."""

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import ShapeError
from model_factory.diffusion.objectives.block import BlockSubsLoss
from model_factory.diffusion.objectives.discrete_time import D3pmLoss, DiscreteSubsLoss
from model_factory.diffusion.objectives.losses import Objective, ScoreEntropyLoss, SubsLoss, UdlmLoss
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise
from model_factory.diffusion.randomness import RowGenerators

N, ROWS, LENGTH = 5, 6, 7
SCHEDULE = GeometricNoise(0.1, 5.0)
MASKS, WRONG = (DiffusionProcess(graph, SCHEDULE) for graph in (AbsorbingGraph(N), UniformGraph(N)))


def objectives() -> list[Objective]:
    discrete = [DiscreteSubsLoss(MASKS, 8), D3pmLoss(WRONG, 8)]
    return [ScoreEntropyLoss(MASKS), ScoreEntropyLoss(WRONG), SubsLoss(MASKS), UdlmLoss(WRONG), *discrete]


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(N, (ROWS, LENGTH), generator=generator)
    frozen = torch.rand(ROWS, LENGTH, generator=generator) < 0.2
    return x_0, torch.rand(ROWS, generator=generator, dtype=torch.float64) * 0.9 + 0.05, frozen


def streams() -> RowGenerators:
    return RowGenerators.from_seed(1, torch.arange(ROWS))


@pytest.mark.parametrize("index", range(6))
def test_loss_parts_use_one_time_throughout(index: int) -> None:
    """Noisy tokens, sigma passed to the network and loss weight are of the same t, also at both ends."""
    objective, (x_0, t, frozen) = objectives()[index], drawn()
    dim, process = objective.graph.dim, objective.process
    table = torch.randn(N + 1, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    asked: list[tuple[Tensor, Tensor]] = []

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        asked.append((x_t, sigma))
        return table[x_t] * (1 + sigma[:, None, None])

    parts = objective.parts(network, x_0, t, streams(), frozen)
    times, again = objective.times(t, x_0), streams()
    zeros, ones = torch.zeros(ROWS), torch.ones(ROWS)
    x_t = process.corrupt(x_0, times, again, frozen)
    x_start = process.corrupt_at(x_0, SCHEDULE.sigma(zeros), again, frozen)
    expected = [(x_t, SCHEDULE.sigma(times)), (x_start, SCHEDULE.sigma(zeros))]
    if objective.graph.absorbing:
        expected.append((torch.where(frozen, x_0, N), SCHEDULE.sigma(ones)))
    assert len(asked) == len(expected)
    for (tokens, sigma), (shown, wanted_sigma) in zip(asked, expected, strict=True):
        assert torch.equal(tokens, shown)
        assert torch.equal(sigma, wanted_sigma)
        assert sigma.shape == (ROWS,)

    def answer(x: Tensor, sigma: Tensor) -> Tensor:
        return table[x] * (1 + sigma[:, None, None])

    diffusion = objective.diffusion(answer(x_t, SCHEDULE.sigma(times)), x_t, x_0, times)
    reconstruction = objective.reconstruction(answer(x_start, SCHEDULE.sigma(zeros)), x_start, x_0)
    limit = torch.full_like(x_0, N)
    output = answer(limit, SCHEDULE.sigma(ones)) if objective.graph.absorbing else None
    for part, alone in (
        (parts.diffusion, diffusion),
        (parts.reconstruction, reconstruction),
        (parts.prior, objective.prior(x_0, output)),
    ):
        torch.testing.assert_close(part, alone.masked_fill(frozen, 0.0), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(parts.total, parts.diffusion + parts.prior + parts.reconstruction)


@pytest.mark.parametrize("process", [MASKS, WRONG])
def test_reconstruction_follows_bayes_rule(process: DiffusionProcess) -> None:
    """Compare with -log of p(x_0) q(x_start | x_0), normalised over x_0, with q written out."""
    objective = SubsLoss(process) if process is MASKS else UdlmLoss(process)
    x_0, _, _ = drawn()
    sigma = SCHEDULE.sigma(torch.zeros(ROWS))
    x_start = process.corrupt_at(x_0, sigma, streams())
    x_start[:, 0] = N if process is MASKS else (x_0[:, 0] + 1) % N
    logits = torch.randn(ROWS, LENGTH, process.graph.dim, generator=torch.Generator().manual_seed(2))
    probs = logits[..., :N].double().softmax(-1)
    alpha = torch.exp(-sigma)[:, None, None]
    stayed = torch.nn.functional.one_hot(x_start, N + 1)[..., :N]
    q = alpha * stayed + (1 - alpha) * ((x_start == N)[..., None] if process is MASKS else 1 / N)
    posterior = probs * q / (probs * q).sum(-1, keepdim=True)
    expected = -posterior.gather(-1, x_0[..., None])[..., 0].log()
    torch.testing.assert_close(objective.reconstruction(logits, x_start, x_0), expected, atol=1e-10, rtol=1e-10)


def test_block_times_are_even_and_clean_half_is_passed() -> None:
    reading = ScoreParameterisation(MASKS.graph)
    objective = BlockSubsLoss(MASKS, 3, reading)
    assert objective.parameterisation is reading
    x_0, t, _ = drawn()
    times = objective.times(t, x_0)  # three blocks, the last of a single token
    for block, positions in enumerate((range(3), range(3, 6), range(6, 7))):
        expected = t - block / 3
        expected = torch.where(expected <= 0, expected + 1, expected)
        for position in positions:
            torch.testing.assert_close(times[:, position], expected)
    assert torch.equal(objective.times(times, x_0), times)
    asked: list[tuple[Tensor, Tensor]] = []

    def network(doubled: Tensor, sigma: Tensor) -> Tensor:
        asked.append((doubled, sigma))
        return torch.arange(doubled.shape[1]).expand(doubled.shape)[..., None]

    for sigma in (SCHEDULE.sigma(t), SCHEDULE.sigma(times)):
        output = objective.predict(network, x_0 + 1, sigma, x_0)
        doubled, levels = asked.pop()
        assert torch.equal(doubled, torch.cat([x_0 + 1, x_0], 1))
        assert torch.equal(levels[:, :LENGTH], (sigma if sigma.dim() > 1 else sigma[:, None]).expand(ROWS, LENGTH))
        assert torch.equal(levels[:, LENGTH:], torch.zeros(ROWS, LENGTH, dtype=torch.float64))
        assert torch.equal(output[..., 0], torch.arange(LENGTH).expand(ROWS, LENGTH))


@pytest.mark.parametrize("process", [MASKS, WRONG])
def test_noise_with_frozen_positions_uses_the_generator(process: DiffusionProcess) -> None:
    x_0, t, frozen = drawn()
    first, second = (process.corrupt(x_0, t, streams(), frozen) for _ in range(2))
    assert torch.equal(first, second)
    free = process.corrupt(x_0, t, streams())
    assert torch.equal(first, torch.where(frozen, x_0, free))
    with pytest.raises(ShapeError, match=r"frozen: got torch.bool \(7,\)"):
        process.corrupt(x_0, t, streams(), frozen[0])


def test_loss_without_ends_calls_network_once() -> None:
    """The prior of uniform noise, which needs no network, is still computed."""
    x_0, t, _ = drawn()
    for objective in (UdlmLoss(WRONG), SubsLoss(DiffusionProcess(AbsorbingGraph(N), CosineNoise(0.1)))):
        asked: list[Tensor] = []

        def network(x_t: Tensor, sigma: Tensor, asked: list[Tensor] = asked, dim: int = objective.graph.dim) -> Tensor:
            asked.append(x_t)
            return torch.zeros(*x_t.shape, dim)

        parts = objective.parts(network, x_0, t, streams(), ends=False)
        assert len(asked) == 1
        assert bool((parts.reconstruction == 0).all())
        assert bool((parts.prior > 0).all()) == (not objective.needs_limit)


def test_subs_loss_of_score_network_equals_x0_loss() -> None:
    """SUBS converts scores at their sigma: the same cross-entropy as from the distribution of the clean token."""
    x_0, t, _ = drawn()
    x_t, sigma = MASKS.corrupt(x_0, t, streams()), SCHEDULE.sigma(t)
    logits = torch.randn(ROWS, LENGTH, N + 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    probs, reading = SubsLoss(MASKS), ScoreParameterisation(MASKS.graph)
    output = reading.output_from_x0(probs.parameterisation.log_x0(logits, x_t, sigma), x_t, sigma)
    expected = probs.diffusion(logits, x_t, x_0, t)
    torch.testing.assert_close(SubsLoss(MASKS, reading).diffusion(output, x_t, x_0, t), expected, atol=1e-9, rtol=1e-9)


def test_prior_of_constant_mixture_is_kl_divergence() -> None:
    limit = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    graph, sigma = Graph(3, limit), torch.tensor([0.2], dtype=torch.float64)
    alpha = torch.exp(-sigma)
    for token in range(3):
        q = (1 - alpha) * limit + alpha * torch.nn.functional.one_hot(torch.tensor(token), 3)
        expected = (q * (q / limit).log()).sum()
        torch.testing.assert_close(graph.prior_part(torch.tensor([[token]]), sigma)[0, 0], expected)
