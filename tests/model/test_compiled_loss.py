"""torch.compile with `fullgraph=True` of a model with its loss: one graph, and at most two over four lengths."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model.transformer.inputs import checked_ids
from model_factory.training.tasks.base import decoder_loss
from tests.model import tiny
from tests.model.test_head_loss import OBJECTIVES, VOCAB, denoiser

LENGTHS = [16, 12, 8, 10]


class Loss(nn.Module):
    """A model and its training loss of drawn noise, as the task calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, drawn: dict[str, Any]) -> Tensor:
        loss: Tensor = self.model(ids, mask, drawn=drawn).loss
        return loss


class DecoderLoss(Loss):
    """A decoder and its loss."""

    def forward(self, ids: Tensor, mask: Tensor, drawn: dict[str, Any]) -> Tensor:
        return decoder_loss(self.model, ids, mask, lambda call: call(ids[:, :-1], mask=mask[:, :-1]))


def steps(draw: Callable[[Tensor, Tensor], dict[str, Any]]) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    found = []
    for length in LENGTHS:
        ids = torch.randint(VOCAB, (6, length), generator=torch.Generator().manual_seed(length))
        mask = tiny.lengths_mask([length, length, 7, 5, length, 6], length)
        found.append((ids, mask, draw(ids, mask)))
    return found


def check(loss: Loss, batches: list[tuple[Tensor, Tensor, dict[str, Any]]]) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain, compiled = copy.deepcopy(loss), torch.compile(loss, backend=counter, fullgraph=True)
    for number, batch in enumerate(batches):
        with checked_ids():
            found, wanted = compiled(*batch), plain(*batch)
        assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
        found.backward()
        wanted.backward()
        assert counter.frame_count <= (2 if number else 1)
    for (name, parameter), other in zip(loss.named_parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            assert tiny.gap(parameter.grad, other.grad) < 1e-5 or float(other.grad.norm()) < 1e-6, name


@pytest.mark.parametrize("objective", ["mdlm", "sedd", "sedd, uniform", "udlm", "gidd"])
def test_a_denoiser_with_its_loss_is_one_graph(objective: str) -> None:
    assert objective in OBJECTIVES
    model = denoiser(objective)
    check(Loss(model), steps(lambda ids, mask: model.drawer.draw(model.drawer.check(ids, mask, seed=3))))


@pytest.mark.parametrize("attention", ["softmax", "causal_linear"])
def test_a_decoder_with_its_loss_is_one_graph(attention: str) -> None:
    model = tiny.decoder(vocab_size=tiny.VOCAB, attention_type=attention, dropout=0.0).train()
    check(DecoderLoss(model), steps(lambda ids, mask: {}))
