"""Graphs of every kind of network: the network's outputs at three sizes, standard operators, and what the inputs mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.blocks import BlockReader
from model.model_factory import create_model
from model.model_types import EncoderConfig, ModelConfig
from model.registry import model_entry
from model_factory.interop.export import graph
from model_factory.interop.export.graph import compare, reference, trace
from model_factory.interop.export.onnx_file import _compare, _convert, _find_custom_operators
from model_factory.interop.export.signature import Signature, find_signature
from tests.interop.exports import BERT, DDIT, PERFORMER, denoiser
from tests.interop.pretrained import write_pretrained
from tests.model.tiny import params

SOURCE = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}
LINEAR = {**PERFORMER, "attention_type": "linear"}
CLASSES = {"type": "class", "num_classes": 3}


def build(section: dict[str, Any]) -> nn.Module:
    """Build a denoiser of 20 tokens, with random weights in all layers."""
    body = {"vocab_size": 20, "length": 12, **section}
    body = {key: value for key, value in body.items() if key not in ("model_type", "name")}
    config = ModelConfig(model_type="diffusion", config=model_entry("diffusion").config_type.model_validate(body))
    return perturb(create_model(config))


def perturb(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def stack(**changes: Any) -> nn.Module:
    config = EncoderConfig(encoder=params(**changes))
    return perturb(create_model(ModelConfig(model_type="encoder", config=config)))


def adapted(kind: str, folder: Path) -> nn.Module:
    write_pretrained(kind, folder, vocab_size=20)
    return build(denoiser({"type": "hugging_face", "path": str(folder), "device": "cpu", "encoder": SOURCE}))


KINDS = {
    "encoder": lambda folder: stack(vocab_size=20),
    "linear encoder": lambda folder: stack(attention_type="linear", input_dim=5),
    "blocks": lambda folder: build(denoiser({**DDIT, "encoder": SOURCE}, "bd3lm", time_conditioning=True)),
    "insertion": lambda folder: build(denoiser({**BERT, "max_length": 40}, "flexmdm")),
    "linear source": lambda folder: build(denoiser({**LINEAR, "encoder": {**SOURCE, "attention_type": "linear"}})),
    "pretrained source": lambda folder: adapted("gpt2", folder),
}
INPUTS = {
    "encoder": ["input_ids", "attention_mask"],
    "linear encoder": ["inputs_embeds", "attention_mask"],
    "blocks": ["input_ids", "clean_ids", "attention_mask", "context_ids", "context_mask", "sigma"],
    "insertion": ["input_ids", "attention_mask", "sigma"],
    "linear source": ["input_ids", "attention_mask", "context_ids", "context_mask"],
    "pretrained source": ["input_ids", "attention_mask", "context_ids", "context_mask"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_graph_has_the_outputs_of_the_network(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` raises an error above 5e-6 of the largest output, if that is above 1."""
    monkeypatch.setattr(graph, "ROUNDING", 0.0)  # these networks do not amplify rounding
    signature = find_signature(KINDS[kind](tmp_path / "base"))
    assert list(signature.axes) == INPUTS[kind]
    assert float(reference(signature, 3, 17)[1].std()) > 0.05
    program = trace(signature)
    assert not [node for node in program.graph.nodes if "model_factory" in str(node.target)]
    module = program.module()
    assert len(compare(signature, kind, lambda given: module(*given.values()))) == 3
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    file = tmp_path / "model.onnx"
    _convert(signature, program, file)
    assert _find_custom_operators(file) == []
    assert len(_compare(signature, file)) == 3


def call(signature: Signature, inputs: dict[str, Tensor], **changes: Tensor) -> Tensor:
    with torch.no_grad():
        return signature.module(*(inputs | changes).values())


def test_blocks_of_a_graph_are_those_that_a_sampler_draws() -> None:
    """The logits of a block, given the clean blocks before it, are those of the sampler's call with cached blocks."""
    model = build(denoiser(DDIT, "bd3lm"))
    signature = find_signature(model)
    inputs, _ = reference(signature, 2, 12)
    inputs["attention_mask"] = torch.ones(2, 12, dtype=torch.int64)
    clean, mask = inputs["clean_ids"], model.process.graph.mask_token
    reader = BlockReader(model._predict, model.process.graph.is_masked, 4)
    for start in (0, 4, 8):
        noisy = torch.where(torch.arange(12) < start, clean, mask)
        found = call(signature, inputs, input_ids=noisy)[:, start : start + 4]
        with torch.no_grad():
            wanted = reader(noisy, torch.ones(2))[:, start : start + 4]
        assert torch.allclose(found, wanted, atol=1e-5)
        assert float(found.std()) > 0.05


def test_rows_of_a_graph_that_inserts_tokens_end_at_their_padding() -> None:
    model = build(denoiser({**BERT, "max_length": 40}, "flexmdm"))
    signature = find_signature(model)
    assert signature.limits == {"length": 39}  # a state is put before each row
    inputs, found = reference(signature, 2, 12)
    with torch.no_grad():
        alone = model.denoise(inputs["input_ids"][1:, :6], inputs["sigma"][1:])
    assert found.shape == (2, 13, model.width)
    assert torch.allclose(found[1:, :7], alone, atol=1e-5)


def test_condition_and_source_reach_a_graph() -> None:
    signature = find_signature(build(denoiser(DDIT, condition=CLASSES)))
    inputs, found = reference(signature, 2, 6)
    assert list(inputs) == ["input_ids", "attention_mask", "cond"]
    assert not torch.allclose(call(signature, inputs, cond=inputs["cond"].flip(0)), found, atol=1e-3)
    signature = find_signature(build(denoiser({**DDIT, "encoder": SOURCE})))
    inputs, found = reference(signature, 2, 6)
    ids, mask = inputs["context_ids"], inputs["context_mask"]
    assert ids.shape == (2, 7)
    assert torch.equal(call(signature, inputs, context_ids=torch.where(mask == 0, 0, ids)), found)
    assert not torch.allclose(call(signature, inputs, context_ids=(ids + 1) % 20), found, atol=1e-3)
