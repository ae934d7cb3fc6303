"""Custom feature maps and attention cores: registration, own keys in a file, messages, JSON schema and training."""

import copy
import json
import subprocess
import sys
from typing import Annotated, Any

import pytest
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import nn

from model.attention.chunked.features import Kernel
from model.attention.cores import SoftmaxCore
from model.attention.feature_maps import FeatureMap, RandomFeatures
from model.core_registry import CORES, core_entry, register_attention
from model.feature_registry import FEATURE_MAPS, feature_map_entry, register_feature_map
from model.latent.part_types import PerformerDenoiserConfig
from model.model_factory import create_model, load_model
from model.parse_model_args import parse_model_config
from model.types import PerformerParams
from model_factory.yaml_config.errors import ConfigError
from tests.model import tiny

BUILT_IN = ["favor+", "favor++", "favor#", "relu", "elu"]


class PowerOptions(BaseModel):
    """Keys of the map `power`."""

    power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of each feature. [1]"""


class ScaleOptions(BaseModel):
    """Keys of the core `scaled`."""

    scale: float


class PowerFeatures(FeatureMap):
    """(1 + relu(x))^power of each coordinate, and a log scale of half of the keys' norm."""

    def __init__(self, head_dim: int, nb_features: int, num_heads: int, options: PowerOptions) -> None:
        super().__init__(head_dim, head_dim, num_heads)
        self.power = options.power

    def query(self, q):
        return (1 + q.relu()) ** self.power

    def key(self, k):
        return self.query(k), 0.5 * k.norm(dim=-1)


class ExpFeatures(RandomFeatures):
    def kernel(self):
        weight = self.scaled_projections()
        return Kernel("exp", weight, weight)


class ScaledCore(SoftmaxCore):
    def __init__(self, params: PerformerParams, options: ScaleOptions) -> None:
        super().__init__()
        self.scale, self.choice = options.scale, params.attention_type

    def forward(self, q, k, v, **kwargs):
        return super().forward(self.scale * q, k, v, **kwargs)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    torch.manual_seed(0)
    for registry in (FEATURE_MAPS, CORES):
        monkeypatch.setattr(registry, "_entries", copy.copy(registry._entries))
    register_feature_map("power", config=PowerOptions, takes_nb_features=False)(PowerFeatures)
    register_feature_map("exp")(ExpFeatures)
    register_attention("scaled", config=ScaleOptions)(ScaledCore)


def section(text: str) -> str:
    return (
        "model:\n  model_type: decoder\n  decoder:\n"
        f"    {{d_model: 16, num_layers: 2, num_heads: 2, device: cpu, vocab_size: 11, {text}}}\n"
    )


def parse(tmp_path, text: str) -> Any:
    path = tmp_path / "model.yml"
    path.write_text(section(text))
    return parse_model_config(path)


def problems_of(tmp_path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, text)
    return str(caught.value)


def test_feature_map_registry_lists_built_ins_first():
    assert list(FEATURE_MAPS) == [*BUILT_IN, "power", "exp"]
    assert [name for name in FEATURE_MAPS if not feature_map_entry(name).takes_nb_features] == ["elu", "power"]
    assert FEATURE_MAPS.group == "model_factory.feature_maps"
    with pytest.raises(ValueError, match="feature map 'elu' is already registered"):
        register_feature_map("elu")(PowerFeatures)


@pytest.mark.parametrize("written", ["exp", "power", "{type: power, power: 2.0}"])
def test_custom_feature_map_trains_saves_and_decodes(tmp_path, written):
    config = parse(tmp_path, f"attention_type: causal_linear, feature_map: {written}")
    model = create_model(config)
    features = model.layers[0].self_attention.sublayer.core.features
    assert getattr(features, "power", None) == {"exp": None, "power": 1.0}.get(written, 2.0)
    assert (model.feature_redraw is None) == ("power" in written)
    ids = torch.randint(11, (2, 9))
    model(ids).sum().backward()
    assert model.layers[0].self_attention.sublayer.to_k.weight.grad.abs().sum() > 0
    model.eval().save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved").eval()
    assert again.config == config
    assert torch.equal(again(ids), model(ids))
    out = model.generate(ids, 4, temperature=0.0)
    assert torch.equal(model(out[:, :-1])[:, -4:].argmax(-1), out[:, -4:])


def test_custom_feature_map_log_scale_of_keys_counts():
    options = feature_map_entry("power").config_type(power=2.0)
    model = tiny.encoder(attention_type="linear", feature_map=options).eval()
    core = model.layers[0].self_attention.sublayer.core
    q, k, v = (torch.randn(1, 2, 70, 8, dtype=torch.float64) for _ in range(3))
    weights = (1 + q.relu()) ** 2 @ ((1 + k.relu()) ** 2 * (0.5 * k.norm(dim=-1, keepdim=True)).exp()).mT
    assert tiny.gap(core(q, k, v, causal=False), weights @ v / weights.sum(-1, keepdim=True)) < 1e-9
    causal = weights.tril()
    assert tiny.gap(core(q, k, v, causal=True), causal @ v / causal.sum(-1, keepdim=True)) < 1e-9


def test_custom_core_gets_the_options_of_its_layer(tmp_path):
    config = parse(tmp_path, "attention_type: [softmax, {type: scaled, scale: 3.0}]")
    params = config.config.params
    assert params.attention_types == ["softmax", "scaled"]
    assert type(core_entry("softmax")) is type(core_entry("scaled"))
    model = create_model(config).eval()
    core = model.layers[1].self_attention.sublayer.core
    assert isinstance(core, ScaledCore)
    assert isinstance(core.choice, ScaleOptions)
    assert core.scale == 3.0
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved").eval()
    assert again.config == config
    ids = torch.randint(11, (1, 5))
    assert torch.equal(again(ids), model(ids))
    assert PerformerParams(**params.model_dump()) == params


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "attention_type: causal_linear, feature_map: favour+",
            [
                "feature_map: must be one of favor+, favor++, favor#, relu, elu, power, exp; got 'favour+'",
                "mean 'favor+'?",
            ],
        ),
        ("attention_type: causal_linear, feature_map: zzzzzz", ["got 'zzzzzz'; "]),
        ("attention_type: causal_linear, feature_map: {a: b}", ["feature_map: must be one of favor+", "got a mapping"]),
        (
            "attention_type: causal_linear, feature_map: {type: powr}",
            ["feature_map.type: must be one", "mean 'power'?"],
        ),
        (
            "attention_type: causal_linear, feature_map: {tpye: power}",
            ["feature_map.tpye: unknown key 'tpye'; did you mean 'type'?"],
        ),
        (
            "attention_type: causal_linear, feature_map: {type: power, powr: 2.0}",
            ["feature_map.powr: unknown key 'powr'; did you mean 'power'?"],
        ),
        ("attention_type: causal_linear, feature_map: {type: power, power: 0}", ["feature_map.power: must be greater"]),
        ("attention_type: causal_linear, feature_map: {type: elu}", ["feature_map: should be the plain name elu"]),
        (
            "attention_type: causal_linear, feature_map: power, nb_features: 8",
            ["nb_features: feature_map power has a fixed number of features"],
        ),
        ("attention_type: scaled", ["attention_type: scaled has required keys; write {type: scaled, scale: ...}"]),
        ("attention_type: {type: scaled}", ["attention_type.scale: missing key 'scale'"]),
        ("attention_type: [softmax, {type: scaled, scale: x}]", ["attention_type.1.scale: must be a number; got"]),
        (
            "attention_type: [softmax, {type: scaled, scale: 1.0, scael: 1}]",
            ["attention_type.1.scael: unknown key 'scael'"],
        ),
        ("attention_type: [softmax, {type: scaled, scael: 1.0}]", ["attention_type.1.scael", "did you mean 'scale'?"]),
        ("attention_type: [softmax, {tyep: scaled, scale: 1.0}]", ["attention_type.1.tyep", "did you mean 'type'?"]),
    ],
)
def test_custom_attention_messages_of_a_file(tmp_path, text, messages):
    problems = problems_of(tmp_path, text)
    assert problems.count("model.yml:") == 1, problems
    for message in messages:
        assert message in problems


def test_custom_attention_invalid_in_python():
    for wrong in (3, ["elu"], {"power": 2.0}, ScaleOptions(scale=1.0), core_entry("scaled").config_type(scale=1.0)):
        with pytest.raises(ValidationError, match=r"feature_map\n|feature_map\.type"):
            tiny.params(attention_type="linear", feature_map=wrong)


def test_custom_attention_json_schema():
    properties = PerformerParams.model_json_schema()["properties"]
    plain, own = properties["feature_map"]["anyOf"]
    assert plain == {"type": "string", "enum": [*BUILT_IN, "power", "exp"]}
    assert own["properties"] == {"type": {"const": "power"}}
    one, several = properties["attention_type"]["anyOf"]
    assert one["anyOf"][0] == {"type": "string", "enum": ["softmax", "linear", "causal_linear"]}
    assert one["anyOf"][1]["required"] == ["type"]
    assert several == {"type": "array", "items": one}
    json.dumps(properties)


def test_latent_denoiser_takes_cores_that_are_not_causal():
    register_attention("past", direction="causal")(nn.Identity)
    assert PerformerDenoiserConfig(attention_type="linear").attention_type == "linear"
    for causal in ("causal_linear", "past"):
        with pytest.raises(ValidationError, match=f"{causal} is causal, and the tokens of a latent have no order"):
            PerformerDenoiserConfig(attention_type=causal)


PLUGIN = """
from pydantic import BaseModel

from model.feature_registry import register_feature_map


class Options(BaseModel):
    shift: float = 1.0


@register_feature_map("shifted", config=Options, takes_nb_features=False)
def build(head_dim, nb_features, num_heads, options):
    from model.attention.feature_maps import FeatureMap

    class Shifted(FeatureMap):
        def query(self, q):
            return q.relu() + options.shift

        def key(self, k):
            return self.query(k), k.new_zeros(k.shape[:-1])

    return Shifted(head_dim, head_dim, num_heads)
"""


def test_custom_feature_map_from_a_plugin_file(tmp_path):
    (tmp_path / "shifted_map.py").write_text(PLUGIN)
    (tmp_path / "model.yml").write_text(
        section("attention_type: causal_linear, feature_map: {type: shifted, shift: 0.5}")
    )
    code = (
        "import sys; from parse_args import main\n"
        "assert main(['--plugin', 'shifted_map', '--model-only', '--config', 'model.yml', *sys.argv[1:]]) == 0\n"
        "print('torch' in sys.modules)"
    )
    for more, imports_torch in (([], "False"), (["--build"], "True")):
        ran = subprocess.run(
            [sys.executable, "-c", code, *more],
            cwd=tmp_path,
            env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split()[-1] == imports_torch


def test_feature_map_entry_point_is_found(tmp_path):
    (tmp_path / "shifted_map.py").write_text(PLUGIN)
    info = tmp_path / "shifted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shifted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[model_factory.feature_maps]\nshifted = shifted_map\n")
    code = (
        "import sys; from model.types import PerformerParams\n"
        "p = PerformerParams(d_model=8, num_layers=1, num_heads=1, attention_type='linear', feature_map='shifted')\n"
        "print(p.feature_map.shift, 'torch' in sys.modules)"
    )
    path = ":".join([*filter(None, sys.path), str(tmp_path)])
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "1.0 False\n", ran.stderr
