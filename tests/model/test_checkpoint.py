"""Saving and loading of models, and the errors for folders that cannot be read."""

import copy
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model.checkpoint import CheckpointError
from model.model_factory import create_model, load_model
from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from model.registry import MODELS, register_model
from model_factory.yaml_config.strict_model import StrictModel
from tests.model import tiny

SHAPE = {"vocab_size": tiny.VOCAB, "max_length": 20, "activation": "geglu"}


def configs():
    causal = tiny.params(attention_type="causal_linear", feature_redraw_interval=1, **SHAPE)
    return [
        ModelConfig(model_type="encoder", name="no", config=EncoderConfig(params=tiny.params(qk_norm=True))),
        ModelConfig(model_type="decoder", config=DecoderConfig(params=causal)),
        ModelConfig(
            model_type="encoder_decoder",
            config=EncoderDecoderConfig(
                encoder_params=tiny.params(tie_embeddings=False, **SHAPE), decoder_params=causal
            ),
        ),
    ]


def same_state(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours
    )


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.model_type)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_is_bit_exact(config, dtype, tmp_path):
    model = create_model(config).to(dtype)
    assert model.config == config
    if config.model_type == "decoder":
        ids = torch.zeros(1, 4, dtype=torch.long)
        model(ids), model(ids)  # after a redraw
    model.save_pretrained(tmp_path / "deep" / "folder")
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == ["config.yml", "model.safetensors"]
    again = load_model(tmp_path / "deep" / "folder")
    assert again.config == config
    assert same_state(model, again)
    again.save_pretrained(str(tmp_path / "deep" / "folder"))  # overwrites itself
    assert same_state(model, load_model(str(tmp_path / "deep" / "folder")))


@pytest.mark.parametrize("name", ["1e-4", "no", "010", "~", "0x1F", "a: b", "line\nbreak", "ünï"])
def test_model_name_round_trips(name, tmp_path):
    """`1e-4` is a number in YAML 1.2 and text in YAML 1.1, whose writers do not quote it."""
    config = ModelConfig(model_type="encoder", name=name, config=EncoderConfig(params=tiny.params()))
    create_model(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).config == config


class TinySection(StrictModel):
    width: int


class TinyLanguageModel(nn.Module):
    """Plain module with tied weights under two names, a view, a non-persistent buffer and an attribute `config`."""

    def __init__(self, section):
        super().__init__()
        self.config = section
        self.embedding = nn.Embedding(5, section.width)
        self.head = nn.Linear(section.width, 5)
        self.head.weight = self.embedding.weight
        table = torch.arange(12.0).view(3, 4)
        self.register_buffer("table", table)
        self.register_buffer("row", table[1])
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    register_model("tiny_lm", config=TinySection)(TinyLanguageModel)
    return ModelConfig(model_type="tiny_lm", config=TinySection(width=4))


def test_plugin_module_round_trips(plugin, tmp_path):
    model = create_model(plugin)
    assert model.config == plugin.config
    assert model.model_config == plugin
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"embedding.weight", "head.bias", "table", "row"}
    again = load_model(tmp_path)
    assert same_state(model, again)
    assert again.head.weight is again.embedding.weight


def test_builder_must_return_a_module(monkeypatch):
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    register_model("nothing", config=TinySection)(lambda section: None)
    with pytest.raises(TypeError, match=r"'nothing' built a NoneType, not an nn.Module"):
        create_model(ModelConfig(model_type="nothing", config=TinySection(width=4)))


def test_deepcopy_saves_its_own_weights(tmp_path):
    model = create_model(configs()[0])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.final_norm.weight.fill_(3.0)
    twin.save_pretrained(tmp_path)
    assert same_state(load_model(tmp_path), twin)


def test_load_on_another_device(tmp_path):
    create_model(configs()[2]).save_pretrained(tmp_path)
    path = tmp_path / "config.yml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda:99"))
    with pytest.raises(ValueError, match="'cuda:99' is not on this machine"):
        load_model(tmp_path)
    assert load_model(tmp_path, device="cpu").config == configs()[2]


@pytest.fixture
def saved(tmp_path):
    create_model(configs()[0]).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["config.yml", "model.safetensors"])
def test_load_names_a_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file; a folder written by save_pretrained holds"):
        load_model(saved)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_load_names_a_truncated_file(saved, size):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged or not a safetensors file .* copy it again"):
        load_model(saved)


def test_load_lists_mismatched_tensors(saved):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("final_norm.weight")
    tensors["final_norm.bias"] = torch.zeros(3)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    for text in (
        "missing: final_norm.weight",
        "unexpected: extra",
        "final_norm.bias is float32 [3] instead of float32 [16]",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_weights_have_the_permissions_of_the_config(umask, tmp_path):
    before = os.umask(umask)
    try:
        create_model(configs()[0]).save_pretrained(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["config.yml", "model.safetensors"], 0o666 & ~umask)


def test_failed_save_keeps_the_old_folder(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left"):
        create_model(configs()[0]).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_save_names_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        create_model(configs()[0]).save_pretrained(tmp_path / "taken")
