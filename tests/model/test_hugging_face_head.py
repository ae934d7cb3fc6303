"""Head and loss of pretrained backbones without logits of a batch; reads of transformers in a step, counted."""

from typing import Any

import pytest
import torch
from torch import nn

from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from tests.model import tiny
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice

VOCAB, LENGTH, MASK = 11, 8, 3
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
KEYS = {**LLAMA, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **LLAMA},
    "qwen3": {"model_type": "qwen3", **KEYS, "head_dim": 8},
    "gpt2": {"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "bert": {"model_type": "bert", **LLAMA},
    "modernbert": {"model_type": "modernbert", **LLAMA, "pad_token_id": 0},
}
CHANGED: dict[str, dict[str, Any]] = {
    "gemma2": {"model_type": "gemma2", **KEYS, "head_dim": 8},  # caps its logits
    "cohere": {"model_type": "cohere", **KEYS},  # scales them, as does the next
    "granite": {"model_type": "granite", **KEYS, "logits_scaling": 4.0},
}
READS = {"bert": 1, "modernbert": 2}
"""Reads of transformers' own, which looks whether a mask hides anything, in a step with padding."""


def build(architecture: dict[str, Any], objective: str = "mdlm", **backbone: Any) -> Any:
    section = {
        "objective": {"type": objective},
        "vocab_size": VOCAB,
        "length": LENGTH,
        "process": {"type": "uniform" if objective == "udlm" else "absorbing"},
        "backbone": {"type": "hugging_face", "architecture": architecture, "device": "cpu", **backbone},
    }
    torch.manual_seed(0)
    model: Any = DiffusionModel(DiffusionConfig.model_validate(section))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(VOCAB - 1, (4, LENGTH), generator=torch.Generator().manual_seed(2))
    return ids + (ids >= MASK), tiny.lengths_mask([8, 8, 5, 1], LENGTH)


@pytest.mark.parametrize(("objective", "mask_token"), [("mdlm", None), ("mdlm", MASK), ("udlm", None)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_logits(name: str, mask_token: int | None, objective: str) -> None:
    model = build(ARCHITECTURES[name], objective, mask_token_id=mask_token).double()
    assert model.call.output_head is not None
    ids, mask = rows()
    documents = torch.arange(LENGTH).div(4, rounding_mode="floor").expand(4, -1)
    packed = {} if name == "modernbert" else {"documents": documents}
    found = []
    for has_row_form in (True, False):
        model.zero_grad()
        model.has_row_form = has_row_form
        loss = model(ids, mask, seed=1).loss + (model(ids, seed=2, **packed).loss if packed else 0)
        loss.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        found.append((loss.detach(), torch.cat([grad.flatten() for grad in grads])))
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-6)
    assert tiny.gap(found[0][1], found[1][1]) < 1e-6


@pytest.mark.parametrize("name", CHANGED)
def test_capped_and_scaled_logits_are_made(name: str) -> None:
    model = build(CHANGED[name])
    assert model.call.output_head is None
    model(*rows(), seed=1).loss.backward()


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_wrapped_head_keeps_logits(name: str) -> None:
    model = build(ARCHITECTURES[name])
    pretrained = model.network.model
    pretrained.get_output_embeddings().register_forward_hook(lambda *_: None)
    assert model.call.output_head is None
    assert "forward" not in vars(pretrained.get_output_embeddings())


@pytest.mark.parametrize("name", ARCHITECTURES)
@in_own_process
def test_reads_of_a_step_are_those_of_transformers(name: str) -> None:
    with PretendDevice() as device:
        model, (ids, mask) = build(ARCHITECTURES[name]), rows()
        drawn = model.drawer.draw(model.drawer.check(ids, mask, seed=1))
        model.to(DEVICE)
        given = {
            key: value.to(DEVICE, non_blocking=True) for key, value in drawn.items() if isinstance(value, torch.Tensor)
        }
        given = {**drawn, **given, "scalars": [x.to(DEVICE, non_blocking=True) for x in drawn["scalars"]]}
        ids, mask = ids.to(DEVICE, non_blocking=True), mask.to(DEVICE, non_blocking=True)
        device.clear()
        model(ids, mask, drawn=given).loss.backward()
        assert (device.reads, device.uploads) == (READS.get(name, 0), 0), device.report()
