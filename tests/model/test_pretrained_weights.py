"""Tensors that a pretrained folder lacks: refused in the backbone, named in a head; published heads and norms."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from model import hub
from model.checkpoint import CheckpointError
from model.hub import HubError
from model.latent.connectors.hugging_face import encoder_of
from model.latent.connectors.published import DECODERS, MODEL_CLASS
from model.latent.encoder import top_layer
from model.model_factory import load_model
from tests.model.latent_parts import LATENT, VOCAB, config, connector
from tests.model.test_hugging_face_denoiser import build, pretrained


def without(folder: Path, part: str) -> None:
    """Remove the tensors from a folder's weights whose names contain `part`."""
    path = folder / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if part not in key}, path, {"format": "pt"})


def notes(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.name == hub.__name__)


@pytest.mark.parametrize(
    ("family", "part", "lacking"),
    [
        ("Bert", "layer.1.", "lack 16 of the model's 42 tensors"),
        ("GPT2", "h.0.mlp", "lack 4 "),
        ("Llama", "norm", "lack 5 "),
    ],
)
def test_pretrained_backbone_without_all_tensors_is_refused(
    family: str, part: str, lacking: str, tmp_path: Path
) -> None:
    pretrained(family, tmp_path)
    without(tmp_path, part)
    with pytest.raises(HubError, match=f"{lacking}.*random: .*{re.escape(part)}.*give the path of a folder"):
        build(tmp_path)


def test_pretrained_encoder_of_latents_without_all_tensors_is_refused(tmp_path: Path) -> None:
    transformers.BertForMaskedLM(config("bert")).save_pretrained(tmp_path)
    without(tmp_path, "embeddings")
    with pytest.raises(HubError, match="the weights lack 5 of the model's"):
        encoder_of(config("bert"), str(tmp_path))


def test_pretrained_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    pretrained("Bert", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.bias"
    save_file(weights | {name: torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(HubError, match=re.escape(f"{name} is [3] instead of [32]")):
        build(tmp_path)


def test_fresh_head_and_pooler_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = pretrained("Bert", tmp_path / "whole")
    whole.bert.save_pretrained(tmp_path / "headless")
    for _ in range(2):
        build(tmp_path / "headless")
    assert notes(caplog).count("its files lack cls.predictions.bias") == 1
    assert "cls.predictions.transform.dense.weight; these start from random values" in notes(caplog)
    caplog.clear()
    encoder_of(whole.config, str(tmp_path / "whole"))
    assert "its files lack pooler.dense.bias, pooler.dense.weight; these" in notes(caplog)
    caplog.clear()
    pretrained("GPT2", tmp_path / "gpt2").transformer.save_pretrained(tmp_path / "tied")
    build(tmp_path / "tied")  # its head is tied to the embeddings
    assert notes(caplog) == ""


def test_layers_that_config_leaves_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = pretrained("Bert", tmp_path)
    model.config.num_hidden_layers = 1
    model.config.save_pretrained(tmp_path)
    build(tmp_path)
    assert "config.json has fewer layers than the weights; not used: bert.encoder.layer.1." in notes(caplog)
    assert "and 11 more" in notes(caplog)


def test_saved_model_loads_though_its_pretrained_folder_is_incomplete(tmp_path: Path) -> None:
    pretrained("Bert", tmp_path / "pretrained")
    model: Any = build(tmp_path / "pretrained")
    model.save_pretrained(tmp_path / "saved")
    without(tmp_path / "pretrained", "layer.0.")
    again = load_model(tmp_path / "saved")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


# Published connectors.


@pytest.mark.parametrize("kind", DECODERS, ids=lambda kind: kind.__name__)
def test_connector_head_bias_is_trained_saved_and_loaded(kind: Any, tmp_path: Path) -> None:
    plain, biased = connector(kind.__name__).eval(), connector(kind.__name__, head_bias=True).eval()
    assert plain.lm_head.bias is None
    ids, latent = torch.randint(3, VOCAB, (2, 5)), torch.randn(2, LATENT)
    logits = plain(ids, latent)[0]
    assert torch.equal(biased(ids, latent)[0], logits)  # zero at first
    biased(ids, latent, labels=ids)[0].sum().backward()
    assert biased.lm_head.bias.grad.abs().sum() > 0
    nn.init.normal_(biased.lm_head.bias)
    biased.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids, latent)[0], logits + biased.lm_head.bias)
    again.resize_token_embeddings(VOCAB + 2)
    assert again(ids, latent)[0].shape[-1] == VOCAB + 2
    again.resize_token_embeddings(VOCAB - 2)
    assert again(ids.clamp(max=5), latent)[0].shape[-1] == VOCAB - 2


def test_connector_head_bias_of_another_length_is_refused(tmp_path: Path) -> None:
    model = connector("GPT2ForLatentConnector", head_bias=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"lm_head.bias": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape("lm_head.bias is float32 [3] instead of")):
        MODEL_CLASS["GPT2ForLatentConnector"].from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "keys", "eps", "dropout"),
    [
        ("bert", {}, 1e-12, 0.1),
        ("bert", {"layer_norm_eps": 1e-3, "attention_probs_dropout_prob": 0.0}, 1e-3, 0.0),
        ("roberta", {"layer_norm_eps": 1e-5}, 1e-5, 0.1),
        ("t5", {"layer_norm_epsilon": 1e-6}, 1e-6, 0.1),
    ],
)
def test_top_layer_follows_the_config(architecture: str, keys: dict[str, float], eps: float, dropout: float) -> None:
    layer = top_layer(config(architecture, **keys))
    assert layer.norm1.eps == layer.norm2.eps == eps
    assert layer.self_attn.dropout == dropout


def test_top_layer_has_the_activation_of_the_config() -> None:
    x = torch.linspace(-2, 2, 9)
    for name, function in (("relu", nn.functional.relu), ("silu", nn.functional.silu), ("gelu", nn.functional.gelu)):
        torch.testing.assert_close(top_layer(config("bert", hidden_act=name)).activation(x), function(x))


def test_new_bert_layer_equals_that_of_transformers() -> None:
    """Compare the layer on top with transformers' BertLayer of the same config and weights."""
    from transformers.models.bert.modeling_bert import BertLayer

    torch.manual_seed(0)
    given = config("bert", layer_norm_eps=0.3, hidden_act="relu")
    given._attn_implementation = "eager"
    own, theirs = top_layer(given).eval(), BertLayer(given).eval()
    attention = theirs.attention
    inner = (attention.self.query, attention.self.key, attention.self.value)
    own.self_attn.in_proj_weight.data = torch.cat([part.weight for part in inner])
    own.self_attn.in_proj_bias.data = torch.cat([part.bias for part in inner])
    pairs = [(own.self_attn.out_proj, attention.output.dense), (own.norm1, attention.output.LayerNorm)]
    pairs += [(own.linear1, theirs.intermediate.dense), (own.linear2, theirs.output.dense)]
    for mine, their in [*pairs, (own.norm2, theirs.output.LayerNorm)]:
        mine.load_state_dict(their.state_dict())
    x = torch.randn(2, 5, given.hidden_size)
    found = theirs(x)
    torch.testing.assert_close(own(x), found[0] if isinstance(found, tuple) else found)
