"""Head and loss in chunks against logits of the whole batch: values, gradients of all weights, and heads that keep logits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import model.head_loss as head_module
from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model.head_loss import HeadWeights, head_loss, head_weights
from model_factory.diffusion.objectives.row_losses import RowTerms
from model_factory.training.tasks.base import decoder_loss, next_token_loss
from tests.model import tiny

VOCAB, LENGTH = 5, 8

OBJECTIVES: dict[str, dict[str, Any]] = {
    "mdlm": {"objective": {"type": "mdlm"}},
    "mdlm, count": {"objective": {"type": "mdlm", "times": "count"}, "schedule": {"type": "loglinear", "eps": 0}},
    "sedd": {"objective": {"type": "sedd"}},
    "sedd, uniform": {"objective": {"type": "sedd"}, "process": {"type": "uniform"}},
    "udlm": {"objective": {"type": "udlm"}, "process": {"type": "uniform"}},
    "gidd": {"objective": {"type": "gidd"}, "process": {"type": "hybrid"}},
    "d3pm": {"objective": {"type": "d3pm", "num_steps": 10}, "schedule": {"type": "discrete", "num_steps": 10}},
    "bd3lm": {"objective": {"type": "bd3lm", "block_size": 3}},
    "bd3lm, clipped": {"objective": {"type": "bd3lm", "block_size": 4, "times": {"clip": [0.3, 0.8]}}},
}
BACKBONES: dict[str, dict[str, Any]] = {
    "ddit": {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 8},
    "performer": {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "attention_type": "linear"},
    "performer, tied": {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "tie_embeddings": True},
    "bert": {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2},
    "bert, tied": {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "tie_embeddings": True},
}


def denoiser(objective: str, backbone: str = "ddit") -> DiffusionModel:
    torch.manual_seed(0)
    network = {**BACKBONES[backbone], "dropout": 0.0, "device": "cpu"}
    section = {**OBJECTIVES[objective], "backbone": network, "vocab_size": VOCAB, "length": LENGTH}
    model = DiffusionModel(DiffusionConfig.model_validate(section)).train()
    for parameter in model.parameters():  # adaLN and heads begin with zeros, which would hide the inputs
        nn.init.normal_(parameter, std=0.3)
    return model


def batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(VOCAB, (6, LENGTH), generator=torch.Generator().manual_seed(1))
    return ids, tiny.lengths_mask([8, 8, 5, 1, 3, 7], LENGTH)


def step(model: DiffusionModel, **more: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the outputs of a training step and the gradients of all parameters."""
    model.zero_grad()
    ids, mask = batch()
    output = model(ids, mask, seed=5, **more)
    output.loss.backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_steps(model: DiffusionModel, exact: float, **more: Any) -> None:
    found, gradients = step(model, **more)
    model.has_row_form = False
    wanted, right = step(model, **more)
    for value, other in zip(found, wanted, strict=True):
        assert float(value.detach()) == pytest.approx(float(other.detach()), rel=exact, abs=1e-6)
    assert gradients.keys() == right.keys()
    largest = max(float(gradient.norm()) for gradient in right.values())
    for name, gradient in gradients.items():
        assert float((gradient - right[name]).norm()) <= exact * float(right[name].norm()) + 1e-3 * exact * largest, (
            name
        )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows of each call of the operator."""
    found: list[int] = []
    plain = head_module._head_loss

    def counted(rows: Tensor, *rest: Any) -> Any:
        found.append(len(rows))
        return plain(rows, *rest)

    monkeypatch.setattr(head_module, "_head_loss", counted)
    return found


@pytest.mark.parametrize("weighting", ["bound", "uniform"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_that_with_logits(objective: str, weighting: str, calls: list[int]) -> None:
    model = denoiser(objective)
    assert_equal_steps(model, 2e-5, loss_weighting=weighting)
    assert len(calls) == 1
    assert_equal_steps(denoiser(objective).double(), 1e-6, loss_weighting=weighting)  # the loss is rounded to float32


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("objective", ["mdlm", "udlm"])
def test_every_backbone_gives_its_head_apart(objective: str, backbone: str, calls: list[int]) -> None:
    assert_equal_steps(denoiser(objective, backbone), 1e-4)
    assert len(calls) == 1


@pytest.mark.parametrize("weighting", ["bound", "uniform"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_noise_that_was_drawn_before_gives_the_same_step(objective: str, weighting: Any) -> None:
    model, (ids, mask) = denoiser(objective), batch()
    wanted, right = step(model, loss_weighting=weighting)
    model.zero_grad()
    drawn = model.drawer.draw(model.drawer.check(ids, mask, seed=5), weighting)
    output = model(ids, mask, drawn=drawn)
    output.loss.backward()
    assert all(torch.equal(found, value) for found, value in zip(output, wanted, strict=True))
    assert all(torch.equal(p.grad, right[name]) for name, p in model.named_parameters() if p.grad is not None)


def test_only_tokens_with_a_loss_reach_the_head(calls: list[int]) -> None:
    model, (ids, mask) = denoiser("mdlm"), batch()
    response = mask & (torch.arange(LENGTH) >= 4)
    model(ids, mask, seed=1, response_mask=response).loss.backward()
    assert calls[0] < int(response.sum())
    calls.clear()
    denoiser("udlm")(ids, mask, seed=1, response_mask=response).loss.backward()
    assert calls == [int(response.sum())]


def test_a_batch_without_a_mask_has_no_loss_and_no_gradient() -> None:
    model = denoiser("mdlm")
    ids, mask = batch()
    output = model(ids, mask & False, seed=1)
    output.loss.backward()
    assert float(output.loss) == 0.0
    assert all(float(p.grad.abs().max()) == 0.0 for p in model.parameters() if p.grad is not None)


def test_evaluation_and_adapted_heads_keep_logits(calls: list[int]) -> None:
    model = denoiser("mdlm")
    model.eval()(*batch(), seed=1)
    model.train()
    model.network.head.register_forward_hook(lambda module, given, output: 2 * output)
    model(*batch(), seed=1)
    assert calls == []


@pytest.mark.parametrize("frozen", ["head", "body", "all but the bias"])
def test_frozen_parts_get_no_gradient(frozen: str) -> None:
    model = denoiser("mdlm")
    for name, parameter in model.named_parameters():
        is_head = name.startswith("network.head")
        kept = {"head": not is_head, "body": is_head, "all but the bias": name == "network.head.bias"}[frozen]
        parameter.requires_grad_(kept)
    assert_equal_steps(model, 2e-5)


def rows_of(count: int, width: int, dtype: torch.dtype, size: int = 11) -> tuple[Tensor, HeadWeights, RowTerms]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, width, generator=generator).to(dtype).requires_grad_()
    table = torch.randn(size + 1, width, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(size + 1, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(size, (count,), generator=generator)
    weight = torch.rand(count, generator=generator, dtype=torch.float64)
    return hidden, HeadWeights(table, bias), RowTerms("cross_entropy", [targets], torch.arange(count), weight, weight)


@pytest.mark.parametrize("rows", [0, 1, 31, 32, 33, 96, 100])
def test_chunks_of_any_size_add_up(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "chunk_rows", lambda size, device: 32)
    hidden, head, terms = rows_of(rows, 5, torch.float64)
    total, nats = head_loss(hidden, head, terms, terms.factor, 11)
    (3 * total).backward()
    found = [hidden.grad, head.table.grad, head.bias.grad]
    for tensor in (hidden, *head):
        tensor.grad = None
    right = F.cross_entropy(F.linear(hidden, head.table, head.bias)[:, :11], terms.scalars[0], reduction="none")
    torch.testing.assert_close(nats, right.detach())
    (3 * (right * terms.factor).sum()).backward()
    for gradient, wanted in zip(found, (hidden.grad, head.table.grad, head.bias.grad), strict=True):
        torch.testing.assert_close(gradient, wanted)
    assert not nats.requires_grad


def test_other_outputs_of_the_head_get_no_gradient() -> None:
    hidden, head, terms = rows_of(9, 5, torch.float32)
    head_loss(hidden, head, terms, terms.factor, 11)[0].backward()
    assert head.table.grad is not None
    assert float(head.table.grad[11].abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_of_half_precision_and_autocast(dtype: torch.dtype) -> None:
    hidden, head, terms = rows_of(200, 16, torch.float32)
    exact = head_loss(hidden, head, terms, terms.factor, 11)[0]
    exact.backward()
    low = HeadWeights(*(x.detach().to(dtype).requires_grad_() for x in head))
    states = hidden.detach().to(dtype).requires_grad_()
    total = head_loss(states, low, terms, terms.factor, 11)[0]
    total.backward()
    assert float(total.detach()) == pytest.approx(float(exact.detach()), rel=1e-2)
    assert states.grad.dtype == low.table.grad.dtype == dtype
    assert tiny.gap(low.table.grad, head.table.grad) < 2e-2
    with torch.autocast("cpu", torch.bfloat16):
        again = [x.detach().requires_grad_() for x in (hidden, *head)]
        cast = head_loss(again[0], HeadWeights(*again[1:]), terms, terms.factor, 11)[0]
    cast.backward()
    assert float(cast.detach()) == pytest.approx(float(exact.detach()), rel=1e-2)
    assert again[1].grad.dtype == torch.float32
    assert tiny.gap(again[1].grad, head.table.grad) < 2e-2


def test_a_second_backward_is_refused() -> None:
    hidden, head, terms = rows_of(5, 4, torch.float32)
    total, _ = head_loss(hidden, head, terms, terms.factor, 11)
    (2 * total).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_head_is_plain_or_not_given() -> None:
    head = nn.Linear(3, 4)
    found = head_weights(head)
    assert found is not None
    assert found.table is head.weight
    assert head_weights(None) is None
    assert head_weights(nn.Sequential(head)) is None
    assert head_weights(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))) is None


@pytest.mark.parametrize("kind", ["softmax", "causal_linear", "tied"])
@pytest.mark.parametrize("padded", [False, True])
def test_decoders_train_without_logits(kind: str, padded: bool, calls: list[int]) -> None:
    more = {"tie_embeddings": True} if kind == "tied" else {"attention_type": kind}
    model = tiny.decoder(vocab_size=tiny.VOCAB, **more).train()
    ids = torch.randint(tiny.VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    real = tiny.lengths_mask([9, 4, 1] if padded else [9, 9, 9], 9)
    found = decoder_loss(model, ids, real, lambda call: call(ids[:, :-1], mask=real[:, :-1]))
    found.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert calls == [int(real[:, 1:].sum())]
    model.zero_grad()
    right = next_token_loss(model(ids[:, :-1], mask=real[:, :-1]), ids, real)
    right.backward()
    torch.testing.assert_close(found, right)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_encoder_decoders_train_without_logits(calls: list[int]) -> None:
    model = tiny.seq2seq(vocab_size=tiny.VOCAB).train()
    source, target = torch.randint(tiny.VOCAB, (2, 6)), torch.randint(tiny.VOCAB, (2, 5))
    real = torch.ones_like(target, dtype=torch.bool)
    found = decoder_loss(model, target, real, lambda call: call(source, target[:, :-1]))
    torch.testing.assert_close(found, next_token_loss(model(source, target[:, :-1]), target, real))
    assert calls == [8]
