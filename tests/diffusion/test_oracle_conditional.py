"""Bounds of responses given prompts, and of texts with their ends: with the exact network they are the entropy."""

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.objectives.block import BlockSubsLoss
from model_factory.diffusion.objectives.losses import Objective, ScoreEntropyLoss, SubsLoss, UdlmLoss
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import GiddLoss, HybridGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, LogLinearNoise, NoiseSchedule
from tests.oracles.diffusion_bounds import exact_bound, quadrature, quadrature_at_both_ends
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy
from tests.oracles.hybrid_toy import HybridToy
from tests.oracles.strings import Strings, entropy

MASKS, UNIFORM = AbsorbingGraph(VOCABULARY), UniformGraph(VOCABULARY)
PROMPTS = [[0], [0, 1], [1], [2]]


def conditional_entropy(toy: Toy, frozen: Tensor) -> float:
    """Return H(x_0 | frozen places) in nats."""
    free = [place for place in range(LENGTH) if not bool(frozen[place])]
    return toy.entropy - entropy(toy.joint.sum(free))


def bound_given(toy: Toy, objective: Objective, places: list[int], power: int = 1, *, told: bool = True) -> float:
    """Return the bound minus the conditional entropy; without `told` the network gets one level for a row."""
    frozen = torch.zeros(LENGTH, dtype=torch.bool)
    frozen[places] = True

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        return toy.oracle(x_t, objective.graph.conditioning_level(sigma, frozen.expand(len(x_t), -1) if told else None))

    is_hybrid = isinstance(toy, HybridToy)
    times = quadrature_at_both_ends(60, 6) if is_hybrid else quadrature(60 if power > 1 else 40, power)
    return sum(exact_bound(toy, objective, network, times, frozen=frozen)) - conditional_entropy(toy, frozen)


@pytest.mark.parametrize("places", PROMPTS)
@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
def test_bound_under_masks_is_the_conditional_entropy(schedule: NoiseSchedule, places: list[int]) -> None:
    toy, process = Toy.random(3, absorbing=True), DiffusionProcess(MASKS, schedule)
    for objective in (SubsLoss(process), ScoreEntropyLoss(process, X0Parameterisation(MASKS))):
        assert abs(bound_given(toy, objective, places)) < 1e-12
        assert abs(bound_given(toy, objective, places, told=False)) < 1e-12  # masks say what is noised


@pytest.mark.parametrize("places", PROMPTS)
@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
def test_bound_under_uniform_noise_is_the_conditional_entropy(schedule: NoiseSchedule, places: list[int]) -> None:
    toy, objective = Toy.random(4, absorbing=False), UdlmLoss(DiffusionProcess(UNIFORM, schedule))
    assert abs(bound_given(toy, objective, places, 6)) < 1e-12
    assert bound_given(toy, objective, places, 6, told=False) > 0.02  # what one level for a row costs


@pytest.mark.parametrize("places", PROMPTS)
def test_bound_under_hybrid_noise_is_the_conditional_entropy(places: list[int]) -> None:
    toy = HybridToy.drawn(4, 0.2)
    process = DiffusionProcess(*HybridGraph(VOCABULARY, 0.2).at_pace(LogLinearNoise(0.0)))
    assert abs(bound_given(toy, GiddLoss(process), places)) < 1e-9
    assert bound_given(toy, GiddLoss(process), places, told=False) > 0.01


@pytest.mark.parametrize("places", PROMPTS)
def test_prior_and_reconstruction_are_of_the_response(places: list[int]) -> None:
    """With alpha(1) > 0 the ends of the bound count, and they too see the prompt."""
    toy, objective = Toy.random(3, absorbing=True), SubsLoss(DiffusionProcess(MASKS, LogLinearNoise(1e-3)))
    assert 0 < bound_given(toy, objective, places) < 1e-5


@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
def test_filled_canvas_counts_the_length_and_hidden_padding_tells_it(schedule: NoiseSchedule) -> None:
    objective = SubsLoss(DiffusionProcess(AbsorbingGraph(3), schedule))
    canvas, hidden, blocks = Strings.drawn(0, 4), Strings.drawn(0, 1, hide=True), Strings.drawn(0, 2)
    whole, lengths = entropy(canvas.probs), entropy(hidden.grouped(hidden.real))
    assert lengths > 0.5
    assert abs(canvas.bound(objective, quadrature(24)) - whole) < 1e-12
    assert abs(hidden.bound(objective, quadrature(24)) - (whole - lengths)) < 1e-12
    number = entropy(blocks.grouped(blocks.real))  # of blocks, which the hidden rest tells
    assert number > 0.3
    assert abs(blocks.bound(objective, quadrature(24)) - (whole - number)) < 1e-12


@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4])
def test_blocks_filled_to_their_end_count_the_length_without_a_canvas(schedule: NoiseSchedule, block_size: int) -> None:
    objective = BlockSubsLoss(DiffusionProcess(AbsorbingGraph(3), schedule), block_size)
    filled, hidden = Strings.drawn(0, block_size), Strings.drawn(0, block_size, hide=True)
    whole = entropy(filled.probs)
    assert abs(filled.bound(objective, quadrature(24)) - whole) < 1e-12
    short = 0.0
    for start in range(0, 4, block_size):  # the entropy of the number of tokens in each block, given those before it
        row_goes_on = hidden.real[:, start]
        before = torch.where(row_goes_on[:, None], hidden.tokens[:, :start], -1)
        shown = hidden.real[:, start : start + block_size] & row_goes_on[:, None]
        both = torch.cat([row_goes_on[:, None], before, shown], 1)
        short += entropy(hidden.grouped(both)) - entropy(hidden.grouped(both[:, : start + 1]))
    assert short > 0.1 if block_size > 1 else short == 0
    assert abs(hidden.bound(objective, quadrature(24)) - (whole - short)) < 1e-12
