"""Oracle test 12: the block bound is the entropy for every block size."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.block import BlockSubsLoss, doubled_attention
from model_factory.diffusion.objectives.losses import SubsLoss
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, LogLinearNoise, NoiseSchedule
from tests.oracles.diffusion_bounds import exact_bound, pairs, quadrature
from tests.oracles.diffusion_propagation import oracle_sampler, sampler_distribution
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy

GRAPH = AbsorbingGraph(VOCABULARY)


def block_oracle(toy: Toy, block_size: int, doubled: Tensor, sigma: Tensor) -> Tensor:
    """Return the exact network of blocks: p(x_0[l]) given earlier blocks' clean tokens and its own block's noisy ones."""
    x_t, x_0 = doubled[:, :LENGTH], doubled[:, LENGTH:]
    block = torch.arange(LENGTH) // block_size
    output = torch.empty(*x_t.shape, toy.dim, dtype=torch.float64)
    for position in range(LENGTH):
        seen = torch.where(block < block[position], x_0, torch.where(block == block[position], x_t, VOCABULARY))
        output[:, position] = toy.oracle(seen, sigma[:, 0])[:, position]
    return torch.cat([output, torch.full_like(output, torch.nan)], 1)  # the clean half must not be used


def position_nats(toy: Toy, objective: BlockSubsLoss, points: int = 40) -> Tensor:
    """Return the diffusion part of each position in nats, [3], over all sequences and times."""
    total = torch.zeros(LENGTH, dtype=torch.float64)

    def network(doubled: Tensor, sigma: Tensor) -> Tensor:
        return block_oracle(toy, objective.block_size, doubled, sigma)

    for t, weight in quadrature(points):
        level = objective.schedule.sigma(t)
        clean, noisy, probability = pairs(toy, level)
        x_t, x_0 = toy.states[noisy], toy.data[clean]
        output = objective.predict(network, x_t, level.expand(len(x_t)), x_0)
        times = torch.full((len(x_t), LENGTH), t, dtype=torch.float64)
        total += weight * (probability[:, None] * objective.diffusion(output, x_t, x_0, times)).sum(0)
    return total


@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
def test_12_block_bound_is_the_entropy(schedule: NoiseSchedule, block_size: int) -> None:
    toy, process = Toy.random(3, absorbing=True), DiffusionProcess(GRAPH, schedule)
    assert float(position_nats(toy, BlockSubsLoss(process, block_size)).sum()) == pytest.approx(toy.entropy, abs=1e-10)


def test_12_blocks_of_one_token_are_the_chain_rule() -> None:
    toy = Toy.random(3, absorbing=True)
    found = position_nats(toy, BlockSubsLoss(DiffusionProcess(GRAPH, LogLinearNoise(0.0)), 1))
    prefix = [toy.joint.sum((1, 2)), toy.joint.sum(2), toy.joint]
    entropies = [0.0, *(float(-(probs * probs.log()).sum()) for probs in prefix)]
    chain = torch.tensor([late - early for early, late in pairwise(entropies)])
    torch.testing.assert_close(found, chain.to(torch.float64), atol=1e-7, rtol=0)


def test_12_one_block_is_mdlm() -> None:
    toy, process = Toy.random(3, absorbing=True), DiffusionProcess(GRAPH, CosineNoise(0.0))
    mdlm = exact_bound(toy, SubsLoss(process), toy.oracle, quadrature(40))
    assert float(position_nats(toy, BlockSubsLoss(process, LENGTH)).sum()) == pytest.approx(mdlm[0], abs=1e-12)


@pytest.mark.parametrize(("length", "block_size"), [(12, 1), (12, 3), (12, 4), (12, 12), (64, 16)])
def test_12_number_of_attended_pairs_matches_formula(length: int, block_size: int) -> None:
    allowed = doubled_attention(length, block_size)
    assert int(allowed.sum()) == length * (length + block_size)
    for query in range(length):
        for key in range(length):
            mine, other = query // block_size, key // block_size
            assert bool(allowed[query, key]) == (mine == other)
            assert bool(allowed[query, length + key]) == (mine > other)
            assert bool(allowed[length + query, length + key]) == (mine >= other)
            assert not bool(allowed[length + query, key])


def test_each_block_has_a_uniform_time() -> None:
    objective = BlockSubsLoss(DiffusionProcess(GRAPH, LogLinearNoise()), 4)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    times = objective.times(t, torch.zeros(1000, 10, dtype=torch.int64))
    assert times.shape == (1000, 10)
    assert bool((times > 0).all())
    assert bool((times <= 1).all())
    assert torch.equal(times[:, 0], times[:, 3])
    assert torch.equal(times[:, 8], times[:, 9])
    assert float((times[:, 0] - times[:, 4]).abs().min()) > 0.3
    for position in (0, 4, 8):
        torch.testing.assert_close(times[:, position].sort().values, t, atol=1.1e-3, rtol=0)


def test_block_loss_refuses_unfit_process_and_size() -> None:
    with pytest.raises(SettingError):
        BlockSubsLoss(DiffusionProcess(UniformGraph(3), LogLinearNoise()), 4)
    with pytest.raises(SettingError):
        BlockSubsLoss(DiffusionProcess(GRAPH, LogLinearNoise()), 0)


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_semi_autoregressive_is_exact_at_one_token_per_call(block_size: int) -> None:
    toy, process = Toy.random(5, absorbing=True), DiffusionProcess(GRAPH, CosineNoise(1e-3))
    choice = {"type": "semi_autoregressive", "block_size": block_size}
    frozen = torch.tensor([True, False, False])
    assert toy.total_variation(sampler_distribution(toy, oracle_sampler(toy, process, choice, LENGTH))) < 1e-12
    several = toy.total_variation(sampler_distribution(toy, oracle_sampler(toy, process, choice, 1)))
    assert several < 1e-12 if block_size == 1 else several > 1e-2  # a block needs at least one call
    probs = sampler_distribution(toy, oracle_sampler(toy, process, choice, LENGTH), frozen)
    given = torch.zeros((toy.dim,) * LENGTH, dtype=torch.float64)
    given[1, :VOCABULARY, :VOCABULARY] = toy.joint[1] / toy.joint[1].sum()
    torch.testing.assert_close(probs, given.flatten(), atol=1e-12, rtol=0)
