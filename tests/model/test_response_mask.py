"""Loss of responses alone: the rest of a row is given, neither noised nor counted."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.transformer.inputs import InputError
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.diffusion import batch_masks
from tests.model.test_diffusion_inputs import X_T, stirred
from tests.model.test_diffusion_model import LENGTH

RESPONSE = torch.arange(LENGTH) >= torch.tensor([[3], [5]])
MASK = torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 1]])
PARTS = [("absorbing", "mdlm"), ("absorbing", "sedd"), ("uniform", "udlm"), ("hybrid", "gidd")]


@pytest.mark.parametrize(("process", "objective"), PARTS)
def test_loss_is_of_response_tokens_alone(process: str, objective: str) -> None:
    model = stirred(process=process, objective=objective)
    shown: list[Tensor] = []
    predict: Callable[..., Tensor] = model._predict
    model._predict = lambda x_t, *rest, **more: (shown.append(x_t), predict(x_t, *rest, **more))[1]  # type: ignore[method-assign]
    output = model(X_T, MASK, response_mask=RESPONSE, seed=3)
    assert all(torch.equal(x_t[~RESPONSE], X_T[~RESPONSE]) for x_t in shown)
    changed = torch.where(MASK & RESPONSE, X_T, (X_T + 1) % 3)
    assert not torch.equal(
        model(changed, MASK, response_mask=RESPONSE, seed=3).loss, output.loss
    )  # it reads the prompt
    everything = model(X_T, MASK, response_mask=torch.ones_like(RESPONSE), seed=3)
    assert torch.equal(everything.loss, model(X_T, MASK, seed=3).loss)


def test_loss_is_a_mean_over_responses_of_any_split() -> None:
    model = stirred()
    whole = model(X_T, MASK, response_mask=RESPONSE, seed=3, rows=torch.arange(2), batch_size=2).loss
    counts = (MASK & RESPONSE).sum(1)
    alone = [
        model(
            X_T[i : i + 1],
            MASK[i : i + 1],
            response_mask=RESPONSE[i : i + 1],
            seed=3,
            rows=torch.tensor([i]),
            batch_size=2,
        )
        for i in range(2)
    ]
    mean = sum(output.loss * count for output, count in zip(alone, counts, strict=True)) / counts.sum()
    torch.testing.assert_close(whole, mean)


def test_response_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="response_mask must be bool"):
        stirred()(X_T, response_mask=RESPONSE[:, :2])


def test_model_without_response_mask_is_refused() -> None:
    class Plain(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Any = None) -> SimpleNamespace:
            return SimpleNamespace(loss=input_ids.sum())

    with pytest.raises(UnfitError, match=r"Plain\.forward has no keyword response_mask; add `response_mask=None`"):
        batch_masks(Plain(), {"input_ids": X_T, "response_mask": RESPONSE})
