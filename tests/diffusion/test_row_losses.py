"""Losses of rows of logits against the objectives' own float64 form, by value and by autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.objectives.block import BlockSubsLoss
from model_factory.diffusion.objectives.discrete_time import D3pmLoss, DiscreteSubsLoss
from model_factory.diffusion.objectives.insertion import FlexMdmLoss
from model_factory.diffusion.objectives.losses import Objective, ScoreEntropyLoss, SubsLoss, UdlmLoss
from model_factory.diffusion.objectives.noise_draws import Noised
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation
from model_factory.diffusion.objectives.row_losses import ROW_LOSSES
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import GiddLoss, HybridGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise

VOCAB, ROWS, LENGTH = 29, 40, 6
MASKS = DiffusionProcess(AbsorbingGraph(VOCAB), LogLinearNoise(0.0))
TOKENS = DiffusionProcess(UniformGraph(VOCAB), LogLinearNoise(0.0))
MIXED, PEAKED = (
    DiffusionProcess(*HybridGraph(VOCAB, share, gamma).at_pace(LogLinearNoise(1e-3)))
    for share, gamma in ((0.2, 1.0), (0.6, 2.0))
)
OBJECTIVES: dict[str, Objective] = {
    "mdlm": SubsLoss(MASKS),
    "mdlm, count": SubsLoss(MASKS).trained_by_counts(),
    "sedd, masks": ScoreEntropyLoss(MASKS),
    "sedd, masks, not scaled": ScoreEntropyLoss(MASKS, ScoreParameterisation(MASKS.graph, scale_by_sigma=False)),
    "sedd, uniform": ScoreEntropyLoss(TOKENS),
    "sedd, uniform, scaled": ScoreEntropyLoss(TOKENS, ScoreParameterisation(TOKENS.graph, scale_by_sigma=True)),
    "udlm": UdlmLoss(TOKENS),
    "gidd": GiddLoss(MIXED),
    "gidd, peaked": GiddLoss(PEAKED),
    "gidd, masks": GiddLoss(MASKS),
    "bd3lm": BlockSubsLoss(MASKS, 4),
    "d3pm": DiscreteSubsLoss(MASKS, 8),
}
TIMES = {"stratified": None, "1e-5": 1e-5, "1e-3": 1e-3, "0.999": 0.999, "1": 1.0}


def draw(objective: Objective, time: float | None) -> tuple[Noised, Tensor, Tensor]:
    """Return noised rows, clean rows [ROWS, LENGTH] and the tokens that are frozen."""
    generator = torch.Generator().manual_seed(3)
    x_0 = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    t = (torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS
    t = t if time is None else torch.full_like(t, time)
    frozen = torch.rand(x_0.shape, generator=generator) < 0.2
    return objective.draw(x_0, t, generator, frozen, training=True), x_0, frozen


def by_rows(objective: Objective, noised: Noised, x_0: Tensor, frozen: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """Return the nats of tokens [ROWS, LENGTH], and the gradient of their sum, both from the row losses."""
    terms = objective.row_terms(noised, x_0, frozen)
    assert terms is not None
    rows = logits[..., :VOCAB].flatten(0, 1)[terms.index].clone()
    values, gradient = ROW_LOSSES[terms.kind](rows, terms.factor, terms.scalars)
    assert gradient is not None
    nats = torch.zeros(x_0.numel(), dtype=torch.float64).index_put((terms.index,), values * terms.factor)
    whole = torch.zeros((x_0.numel(), VOCAB), dtype=torch.float64).index_put((terms.index,), gradient.double())
    return nats.view_as(x_0), whole.view(*x_0.shape, VOCAB)


def by_logits(objective: Objective, noised: Noised, x_0: Tensor, frozen: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """The same from `Objective.diffusion` and autograd."""
    logits = logits.clone().requires_grad_()
    x_t = noised.x_t.masked_fill(frozen, 0)
    nats = objective.diffusion(logits, x_t, x_0, noised.t).masked_fill(frozen, 0.0)
    if noised.weight is not None:
        ratio = noised.weight / objective.weight(noised.t)
        nats = nats * (ratio if ratio.dim() == 2 else ratio[:, None])
    nats.sum().backward()
    assert logits.grad is not None
    return nats.detach(), logits.grad[..., :VOCAB]


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_row_losses_are_the_objective(name: str, time: str, dtype: torch.dtype, exact: float) -> None:
    objective = OBJECTIVES[name]
    noised, x_0, frozen = draw(objective, TIMES[time])
    logits = torch.randn(*x_0.shape, objective.graph.dim, dtype=torch.float64)
    for found, wanted in zip(
        by_rows(objective, noised, x_0, frozen, logits.to(dtype)),
        by_logits(objective, noised, x_0, frozen, logits),
        strict=True,
    ):
        # At t = 1 without a token that is kept, nothing is to be learnt: both forms are rounding errors.
        assert float((found - wanted).norm()) <= exact * float(wanted.norm()) + 1e-9, (found, wanted)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_large_logits_are_finite_and_exact(name: str) -> None:
    objective = OBJECTIVES[name]
    noised, x_0, frozen = draw(objective, None)
    extreme = 15 * torch.randn(*x_0.shape, objective.graph.dim, dtype=torch.float64)
    for logits in (extreme, extreme.float()):
        nats, gradient = by_rows(objective, noised, x_0, frozen, logits)
        assert torch.isfinite(nats).all()
        assert torch.isfinite(gradient).all()
    wanted = by_logits(objective, noised, x_0, frozen, extreme)
    for found, right in zip(by_rows(objective, noised, x_0, frozen, extreme), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-9)


def test_uniform_weighting_takes_the_weights_of_the_times_away() -> None:
    for objective in OBJECTIVES.values():
        noised, x_0, frozen = draw(objective, None)
        terms = objective.row_terms(noised, x_0, frozen)
        assert terms is not None
        weight = objective.weight(noised.t) if noised.weight is None else noised.weight
        even = noised.even_weight if isinstance(noised.even_weight, Tensor) else torch.ones_like(weight)
        ratio = (weight / even if weight.dim() == 2 else (weight / even)[:, None]).expand(x_0.shape)
        torch.testing.assert_close(terms.factor / terms.even_factor, ratio.flatten()[terms.index], rtol=1e-12, atol=0)


class _OwnGraph(HybridGraph):
    """A process whose noise is not equal at all tokens, and which inherits the description of one whose noise is."""

    def noise(self, sigma: Tensor) -> Tensor:
        return super().noise(sigma) * torch.linspace(0.5, 1.5, self.dim)


class _OwnLoss(SubsLoss):
    """A custom loss, which inherits the class that has row losses."""


class _OwnReading(ScoreParameterisation):
    """A custom reading of outputs."""


def _constant() -> Graph:
    return Graph(VOCAB, torch.linspace(1, 2, VOCAB, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _OwnLoss(MASKS),
        lambda: GiddLoss(DiffusionProcess(_OwnGraph(VOCAB), LogLinearNoise())),
        lambda: GiddLoss(DiffusionProcess(_constant(), LogLinearNoise())),
        lambda: ScoreEntropyLoss(DiffusionProcess(_constant(), LogLinearNoise())),
        lambda: ScoreEntropyLoss(MASKS, _OwnReading(MASKS.graph)),
        lambda: D3pmLoss(TOKENS, 4),
        lambda: FlexMdmLoss(MASKS),
    ],
)
def test_what_may_compute_another_loss_keeps_its_logits(make: Any) -> None:
    assert not make().has_row_form
    assert OBJECTIVES["gidd"].has_row_form
