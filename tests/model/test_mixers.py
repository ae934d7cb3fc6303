"""Attention type of each layer: lists, the registry of cores, and messages for a file."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from model.attention.cores import LinearCore, SoftmaxCore
from model.attention.decoding_state import CoreState
from model.core_registry import CORES, register_attention
from model.model_factory import create_model, load_model
from model.parse_model_args import parse_model_config
from model.transformer.inputs import InputError
from model.types import PerformerParams
from model_factory.yaml_config.errors import ConfigError
from tests.model import tiny

HYBRID = ["linear", "linear", "linear", "softmax"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def cores(stack):
    return [layer.self_attention.sublayer.core for layer in stack.layers]


def test_attention_type_list_sets_each_layer():
    model = tiny.encoder(num_layers=4, attention_type=HYBRID, nb_features=24)
    assert [type(core) for core in cores(model)] == [LinearCore] * 3 + [SoftmaxCore]
    assert sum(name.endswith("projection_matrix") for name in model.state_dict()) == 3
    assert tiny.encoder(attention_type=["softmax"] * 2).feature_redraw is None
    one, many = (tiny.encoder(attention_type=types).eval() for types in ("linear", ["linear", "linear"]))
    many.load_state_dict(one.state_dict())
    x = torch.randn(2, 9, 16)
    assert torch.equal(one(x), many(x))


def test_mixed_encoder_layers_keep_their_direction():
    x = torch.randn(1, 9, 16)
    changed = torch.cat([x[:, :-1], torch.randn(1, 1, 16)], dim=1)
    for types, moves in [(["causal_linear"] * 2, False), (["causal_linear", "linear"], True), (["softmax"] * 2, True)]:
        model = tiny.encoder(attention_type=types)
        assert (tiny.gap(model(changed)[:, :-1], model(x)[:, :-1]) > 1e-5) == moves


def test_mixed_decoder_is_causal_and_ignores_padding():
    model = tiny.decoder(num_layers=3, attention_type=["causal_linear", "softmax", "causal_linear"], vocab_size=11)
    ids, mask = torch.randint(11, (2, 70)), tiny.lengths_mask([70, 41], 70)
    out = model(ids, mask=mask)
    assert tiny.gap(out[1:, :41], model(ids[1:, :41])) < 1e-5
    assert tiny.gap(model(ids[:, :50]), model(ids)[:, :50]) < 1e-6
    with pytest.raises(InputError, match="causal_linear attention is always causal"):
        model(ids, use_causal_mask=False)


def test_attention_type_list_properties():
    params = tiny.params(num_layers=4, attention_type=HYBRID)
    assert params.attention_types == HYBRID
    assert params.is_linear
    assert [params.of_layer(index).is_linear for index in range(4)] == [True, True, True, False]
    assert PerformerParams(**params.model_dump()) == params
    assert tiny.params().attention_types == ["softmax", "softmax"]
    assert not tiny.params(attention_type=["softmax", "softmax"]).is_linear


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_type": ["linear"]}, "attention_type lists 1 layers, and num_layers is 2"),
        ({"attention_type": []}, "attention_type lists 0 layers, and num_layers is 2"),
        ({"attention_type": ["softmax"] * 2, "nb_features": 8}, "nb_features only goes with linear attention"),
        ({"attention_type": ("softmax", "softmax")}, "should be 'softmax', 'linear' or 'causal_linear'"),
        ({"attention_type": "sofmax"}, "should be 'softmax', 'linear' or 'causal_linear'"),
        ({"attention_type": ["linear", ["linear"]]}, "attention_type.each.1"),
    ],
)
def test_attention_type_invalid_in_python(changes, message):
    with pytest.raises(ValidationError) as caught:
        tiny.params(**changes)
    assert message in str(caught.value)


def test_decoder_rejects_a_bidirectional_layer():
    with pytest.raises(ValueError, match="linear lets a token see the ones after it; use causal_linear in a decoder"):
        tiny.decoder(attention_type=["softmax", "linear"])


def problems_of(tmp_path, part, attention_type, more=""):
    path = tmp_path / "model.yml"
    body = f"{{d_model: 16, num_layers: 2, num_heads: 2, device: cpu, attention_type: {attention_type}{more}}}"
    path.write_text(f"model:\n  model_type: {part}\n  {part}: {body}\n")
    try:
        parse_model_config(path)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("part", "attention_type", "messages"),
    [
        ("encoder", "[linear, softmax]", []),
        (
            "encoder",
            "[linear, sofmax]",
            ["attention_type.1: must be one of softmax, linear, causal_linear; got 'sofmax'; did you mean 'softmax'?"],
        ),
        ("encoder", "[linear, 3]", ["attention_type.1: must be one of softmax, linear, causal_linear; got 3"]),
        ("encoder", "linaer", ["attention_type: must be one of", "did you mean 'linear'?"]),
        ("encoder", "{a: b}", ["attention_type: must be one of softmax, linear, causal_linear; got a mapping"]),
        ("encoder", "[linear]", ["lists 1 layers, and num_layers is 2; one name for each layer, or a single name"]),
        ("encoder", "[]", ["lists 0 layers, and num_layers is 2"]),
        ("encoder", "[softmax, softmax], nb_features: 8", ["nb_features only goes with linear", "is softmax;"]),
        (
            "decoder",
            "[softmax, linear]",
            ["attention_type.1: bidirectional `linear` attention in a decoder", "; causal_linear in its place"],
        ),
        ("decoder", "linear", ["attention_type: bidirectional `linear`", "; try attention_type: causal_linear"]),
    ],
)
def test_attention_type_messages_of_a_file(tmp_path, part, attention_type, messages):
    problems = problems_of(tmp_path, part, attention_type)
    assert bool(problems) == bool(messages)
    assert problems.count("model.yml:") == bool(messages)
    for message in messages:
        assert message in problems


def test_attention_type_list_round_trips(tmp_path):
    path = tmp_path / "model.yml"
    path.write_text(
        "model:\n  model_type: decoder\n  decoder:\n    {d_model: 16, num_layers: 2, num_heads: 2, device: cpu,\n"
        "     attention_type: [causal_linear, softmax]}\n"
    )
    model = create_model(parse_model_config(path)).eval()
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved").eval()
    assert again.config == model.config
    x = torch.randn(1, 5, 16)
    assert torch.equal(again(x), model(x))


def test_json_schema_lists_registered_cores(own_core):
    schema = PerformerParams.model_json_schema()["properties"]["attention_type"]
    names = {"type": "string", "enum": ["softmax", "linear", "causal_linear", own_core]}
    assert schema["anyOf"] == [names, {"type": "array", "items": names}]
    json.dumps(schema)


class MeanCore(nn.Module):
    """Mean of the visible values for each query, times a learned gain for each head."""

    def __init__(self, params):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(params.num_heads, 1, 1))

    def forward(self, q, k, v, *, key_mask=None, causal):
        seen = torch.ones(q.shape[-2], k.shape[-2])
        seen = (seen.tril() if causal else seen)[None, None]
        if key_mask is not None:
            seen = seen * key_mask[:, None, None, :]
        return self.gain * (seen @ v) / seen.sum(-1, keepdim=True).clamp(min=1)


class MeanState(CoreState):
    """Decoding state of a sum and a count."""

    def __init__(self, core):
        self.core, self.total, self.count = core, 0.0, 0.0

    def update(self, k, v, key_mask=None):
        weight = torch.ones(v.shape[0], v.shape[2]) if key_mask is None else key_mask.float()
        weight = weight[:, None, :, None]
        self.total = self.total + (weight * v).sum(2, keepdim=True)
        self.count = self.count + weight.sum(2, keepdim=True)

    def attend(self, q):
        return (self.core.gain * self.total / self.count).expand_as(q)

    def select(self, rows):
        self.total, self.count = self.total[rows], self.count[rows]


class StatefulMeanCore(MeanCore):
    def decoding_state(self, capacity):
        return MeanState(self)


@pytest.fixture(params=[MeanCore, StatefulMeanCore])
def own_core(request, monkeypatch):
    monkeypatch.setattr(CORES, "_entries", copy.copy(CORES._entries))
    register_attention("mean")(request.param)
    return "mean"


def test_custom_core_trains_and_decodes(own_core, tmp_path):
    assert problems_of(tmp_path, "encoder", "[mean, linear]") == ""
    assert "did you mean 'mean'?" in problems_of(tmp_path, "encoder", "maen")
    assert "is mean and softmax;" in problems_of(tmp_path, "encoder", "[mean, softmax]", ", nb_features: 8")
    model = tiny.decoder(attention_type=[own_core, "causal_linear"], vocab_size=11, use_cross_attention=True)
    ids, context = torch.randint(11, (2, 6)), torch.randn(2, 4, 16)
    model(ids, context).sum().backward()
    assert model.layers[0].self_attention.sublayer.core.gain.grad is not None
    mask, seen = tiny.lengths_mask([6, 3], 6), tiny.lengths_mask([4, 2], 4)
    with torch.no_grad():
        assert tiny.gap(model(ids, context, mask, seen)[1:, :3], model(ids[1:, :3], context[1:, :2])) < 1e-5
    for beams in (1, 3):
        out = model.generate(ids, 5, 0.0, num_beams=beams, mask=mask, context=context, context_mask=seen)
        for row, (n, m) in enumerate([(6, 4), (3, 2)]):
            one = slice(row, row + 1)
            alone = model.generate(ids[one, :n], 5, 0.0, num_beams=beams, context=context[one, :m])
            assert torch.equal(alone[:, n:], out[one, 6:])
    prefix = ids
    for token in model.generate(ids, 5, 0.0, context=context)[:, 6:].T:
        assert torch.equal(model(prefix, context)[:, -1].argmax(-1), token)
        prefix = torch.cat([prefix, token[:, None]], dim=1)


def test_custom_core_direction(monkeypatch):
    monkeypatch.setattr(CORES, "_entries", copy.copy(CORES._entries))
    register_attention("past", direction="causal")(MeanCore)
    register_attention("all", direction="bidirectional", uses_features=True)(MeanCore)
    assert tiny.params(attention_type="all", nb_features=4).is_linear
    x = torch.randn(1, 9, 16)
    model = tiny.encoder(attention_type="past")
    assert tiny.gap(model(x[:, :4]), model(x)[:, :4]) < 1e-6
    with pytest.raises(ValueError, match="all lets a token see the ones after it"):
        tiny.decoder(attention_type="all")
    with pytest.raises(ValueError, match="'past' is already registered"):
        register_attention("past")(MeanCore)


def test_model_types_import_no_torch():
    code = "import sys, model.model_types, model.core_registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
