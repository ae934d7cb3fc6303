"""Custom parts of a latent diffusion model: registered in one file, named and checked in the YAML file, and trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.latent.connectors.injection import DecoderShape, Injection
from model.latent.ddpm import ddpm_schedule
from model.latent.registry import (
    LATENT_PARTS,
    LATENT_POOLERS,
    LATENT_ROUTES,
    LATENT_SCHEDULES,
    register_latent_denoiser,
    register_latent_pooler,
    register_latent_route,
    register_latent_schedule,
)
from model.model_factory import create_model
from model_factory.yaml_config.errors import ConfigError
from parse_args import parse_config

ROOT = Path(__file__).parents[2]

PLUGIN = '''
"""A pooler, a route, a schedule and a denoiser from outside the package."""

from pydantic import BaseModel, Field

from model.latent.registry import (
    register_latent_denoiser,
    register_latent_pooler,
    register_latent_route,
    register_latent_schedule,
)
from model_factory.yaml_config.strict_model import StrictModel


class PowerMeanConfig(StrictModel):
    power: float = 2.0
    """Exponent of the mean. [1]"""


@register_latent_pooler("power_mean", config=PowerMeanConfig)
def power_mean(config, width, pretrained):
    from torch import nn

    class PowerMean(nn.Module):
        def forward(self, hidden, mask):
            weights = mask.unsqueeze(-1)
            return (hidden.abs() ** config.power * weights).sum(1) / weights.sum(1)

    return PowerMean()


class HiddenConfig(BaseModel):
    hidden: int = Field(gt=0)


@register_latent_route("mlp_prompt", target="soft_prompt", config=HiddenConfig)
def mlp_prompt(config, latent_size, out_features):
    from torch import nn

    return nn.Sequential(nn.Linear(latent_size, config.hidden), nn.Tanh(), nn.Linear(config.hidden, out_features))


class SigmoidConfig(StrictModel):
    steepness: float = 6.0


@register_latent_schedule("sigmoid", reads=("beta_start", "beta_end"), config=SigmoidConfig)
def sigmoid(config, num_steps, betas):
    import torch

    share = torch.linspace(-config.steepness, config.steepness, num_steps).sigmoid()
    return betas[0] + (betas[1] - betas[0]) * share


@register_latent_denoiser("affine")
def affine(config, latent_size, time_scale):
    from torch import nn

    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.latent_dim, self.linear = latent_size, nn.Linear(latent_size + 1, latent_size)

        def forward(self, x, t, z_sem=None):
            import torch

            return self.linear(torch.cat([x, t[:, None].to(x.dtype)], -1))

    return Affine()
'''

FILE = """
model:
  model_type: latent_diffusion
  encoder: {{type: performer, d_model: 8, num_layers: 1, num_heads: 2, vocab_size: 20, pooling: {pooling}}}
  decoder: {{type: performer, d_model: 8, num_layers: 1, num_heads: 2, vocab_size: 20, routes: {routes}, num_slots: 2}}
  latent: {{size: 4}}
  denoiser: {{type: {denoiser}}}
  diffusion: {{num_steps: 20, schedule: {schedule}, self_conditioning: 0.0}}
"""
CUSTOM = {
    "pooling": "{type: power_mean, power: 3.0}",
    "routes": "[embedding, {type: mlp_prompt, hidden: 5}]",
    "denoiser": "affine",
    "schedule": "sigmoid",
}


@pytest.fixture
def plugin():
    before = [dict(registry._entries) for registry in LATENT_PARTS if registry.names()]
    exec(compile(PLUGIN, "latent_plugin.py", "exec"), {"__name__": "latent_plugin"})
    yield
    for registry, entries in zip(LATENT_PARTS, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "latent_plugin.py").write_text(PLUGIN)
    return tmp_path


def written(folder, **changes):
    path = folder / "x.yml"
    path.write_text(FILE.format(**CUSTOM | changes))
    return str(path)


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def check_file(folder, *options):
    return run(folder, str(ROOT / "parse_args.py"), "--config", "x.yml", *options)


def test_latent_custom_parts_train_and_sample(plugin, tmp_path):
    model = create_model(parse_config(written(tmp_path))[0])
    ids = torch.randint(20, (3, 6))
    model(ids).loss.backward()
    latents = model.sample_latents(2, steps=4)
    assert model.decode(latents, 1, 3).shape == (2, 4)
    assert type(model.encoder.pooler).__name__ == "PowerMean"
    prompt = model.decoder.transformer.injection.linear_prompt
    assert (prompt[0].out_features, prompt[2].out_features) == (5, 2 * 8)
    assert model.decoder.transformer.injection(latents).prompt.shape == (2, 2, 8)
    assert type(model.ddpm.eps_model).__name__ == "Affine"


def test_latent_custom_schedule_gives_ddpm_its_betas(plugin, tmp_path):
    model = create_model(parse_config(written(tmp_path, schedule="{type: sigmoid, steepness: 1.0}"))[0])
    betas = model.ddpm.beta_t
    first, last = model.latent_config.diffusion.betas
    share = torch.linspace(-1, 1, 20).sigmoid()
    torch.testing.assert_close(betas[1:], first + (last - first) * share)
    assert betas[0] == 0


def test_latent_custom_parts_survive_saving(plugin, tmp_path):
    model = create_model(parse_config(written(tmp_path))[0])
    dumped = model.latent_config.model_dump(mode="json")
    assert dumped["encoder"]["pooling"] == {"type": "power_mean", "power": 3.0}
    assert dumped["decoder"]["routes"] == ["embedding", {"type": "mlp_prompt", "hidden": 5}]
    assert dumped["diffusion"]["schedule"] == "sigmoid"
    assert type(model.latent_config).model_validate(dumped) == model.latent_config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pooling": "power_maen"}, "must be one of first, mean, context, power_mean; .*did you mean 'power_mean'"),
        ({"pooling": "zzzzzzzz"}, "first, mean, context.*--plugin MODULE"),
        ({"pooling": "{type: power_mean, pwer: 3.0}"}, "pooling.pwer: unknown key 'pwer'; did you mean 'power'"),
        ({"pooling": "{type: mean, power: 3.0}"}, "unknown key 'power'"),
        ({"pooling": "3"}, "name, or a mapping"),
        ({"pooling": "null"}, "name, or a mapping|must be one of|pooling"),
        ({"routes": "[mlp_prompt]"}, r"routes.0.hidden"),
        ({"routes": "[{type: mlp_prompt, hidden: 0}]"}, r"routes.0.hidden: .*greater than 0|routes.0.hidden: must be"),
        ({"routes": "[soft_prompt, {type: mlp_prompt, hidden: 5}]"}, "soft_prompt and mlp_prompt both feed"),
        ({"routes": "[memory, memory]"}, "names a route twice"),
        ({"schedule": "sigmiod"}, "did you mean 'sigmoid'"),
        ({"schedule": "{type: sigmoid, steepness: steep}"}, "schedule.steepness"),
        ({"schedule": "cosine, beta_end: 0.5"}, "schedule cosine has no beta_end"),
        ({"denoiser": "afine"}, "did you mean 'affine'"),
        ({"denoiser": "affine, width: 3"}, "unknown key 'width'"),
        ({"denoiser": "performer, attention_type: causal_linear"}, "the tokens of a latent have no order"),
        ({"denoiser": "performer, attention_type: [softmax]"}, "lists 1 layers, and num_layers is 4"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_latent_part_errors_name_the_key(plugin, tmp_path, changes, expected):
    with pytest.raises(ConfigError, match=f"(?s){expected}"):
        parse_config(written(tmp_path, **changes))


def test_latent_parts_from_a_plugin_file(folder):
    written(folder)
    done = check_file(folder, "--plugin", "latent_plugin")
    assert done.returncode == 0, done.stderr
    missing = check_file(folder)
    assert missing.returncode == 1
    assert "x.yml:4:103: model.encoder.pooling.type: must be one of first, mean, context" in missing.stderr
    assert "custom one" in missing.stderr or "--plugin MODULE" in missing.stderr


def test_latent_parts_from_an_installed_package(folder):
    written(folder)
    info = folder / "latent_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: latent_plugin\nVersion: 1\n")
    names = {"poolers": "power_mean", "routes": "mlp_prompt", "schedules": "sigmoid", "denoisers": "affine"}
    groups = [f"[model_factory.latent_{group}]\n{name} = latent_plugin\n" for group, name in names.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))
    done = check_file(folder)
    assert done.returncode == 0, done.stderr
    typo = check_file(folder, "--set", "model.diffusion.schedule=sigmod")
    assert "did you mean 'sigmoid'?" in typo.stderr


def test_latent_parts_in_the_json_schema(folder):
    done = run(folder, str(ROOT / "parse_args.py"), "--plugin", "latent_plugin", "--schema")
    schema = json.loads(done.stdout)
    (model,) = [one for one in schema["properties"]["model"]["oneOf"] if "denoiser" in one["properties"]]
    encoder, decoder = (
        {
            one["properties"]["type"].get("const", str(one["properties"]["type"])): one["allOf"][0]
            for one in model["properties"][part]["anyOf"]
        }
        for part in ("encoder", "decoder")
    )
    names, variant = encoder["performer"]["properties"]["pooling"]["anyOf"]
    assert names == {"type": "string", "enum": ["first", "mean", "context", "power_mean"]}
    assert variant["properties"] == {"type": {"const": "power_mean"}}
    power = variant["allOf"][0]["properties"]["power"]
    assert (power["type"], power["description"]) == ("number", "Exponent of the mean. [1]")
    assert "mlp_prompt" in decoder["performer"]["properties"]["routes"]["items"]["anyOf"][0]["enum"]
    schedule = schema["$defs"]["GaussianConfig"]["properties"]["schedule"]["anyOf"]
    assert schedule[0]["enum"] == ["linear", "cosine", "constant", "sigmoid"]
    assert schedule[1]["allOf"][0]["additionalProperties"] is False


def test_latent_parts_are_checked_without_torch(folder):
    written(folder)
    code = (
        "import sys, latent_plugin; from parse_args import parse_config; parse_config('x.yml');"
        "print('torch' in sys.modules)"
    )
    done = run(folder, "-c", code)
    assert done.stdout == "False\n", done.stderr


def test_latent_part_registered_twice_is_refused(plugin):
    pairs = [
        (register_latent_pooler, "mean"),
        (register_latent_schedule, "cosine"),
        (register_latent_denoiser, "affine"),
    ]
    for register, name in pairs:
        with pytest.raises(ValueError, match=f"{name!r} is already registered"):
            register(name)(lambda *arguments: None)
    with pytest.raises(ValueError, match="target 'prompts' of latent route 'x' is unknown; use embedding, memory"):
        register_latent_route("x", target="prompts")  # type: ignore[arg-type]


def test_latent_built_in_names_are_registered():
    assert LATENT_POOLERS.names()[:3] == ["first", "mean", "context"]
    assert LATENT_ROUTES.names()[:4] == ["embedding", "memory", "cross_attention", "soft_prompt"]
    assert LATENT_SCHEDULES.names()[:3] == ["linear", "cosine", "constant"]


def test_latent_plugin_cannot_take_a_built_in_name(folder):
    code = "from model.latent.registry import *; register_latent_pooler('mean')(print)"
    assert "ValueError: latent pooler 'mean' is already registered" in run(folder, "-c", code).stderr


def test_latent_parts_of_the_wrong_shape_are_refused(plugin):
    register_latent_schedule("short")(lambda config, num_steps, betas: torch.full((num_steps - 1,), 0.1))
    with pytest.raises(ValueError, match=r"schedule 'short' returns .*\[9\]; it must be float \[10\]"):
        ddpm_schedule(0.1, 0.2, 10, kind="short")
    register_latent_schedule("high")(lambda config, num_steps, betas: torch.full((num_steps,), 1.5))
    with pytest.raises(ValueError, match=r"betas\[1\]"):
        ddpm_schedule(0.1, 0.2, 10, kind="high")
    with pytest.raises(ValueError, match="unknown latent schedule 'cosin'; did you mean 'cosine'"):
        ddpm_schedule(0.1, 0.2, 10, kind="cosin")
    shape = DecoderShape(8, 1, 2, 4)
    register_latent_route("wide", target="embedding")(lambda config, size, out: torch.nn.Linear(size, out + 1))
    with pytest.raises(ValueError, match=r"the route's Linear returns .*\[2, 9\]; it must be \[2, 8\]"):
        Injection(4, shape, ["wide"])(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="two of the routes wide, embedding feed the same input"):
        Injection(4, shape, ["wide", "embedding"])
    with pytest.raises(ValueError, match="unknown latent route 'soft_promt'; did you mean 'soft_prompt'"):
        Injection(4, shape, ["soft_promt"])


def test_latent_pooler_of_the_wrong_width_is_refused(plugin, tmp_path):
    register_latent_pooler("all")(lambda config, width, pretrained: _Everything())
    model = create_model(parse_config(written(tmp_path, pooling="all"))[0])
    with pytest.raises(ValueError, match=r"the pooler _Everything returns .*; it must be \[3, 8\]"):
        model(torch.randint(20, (3, 6)))


class _Everything(torch.nn.Module):
    def forward(self, hidden, mask):
        return hidden
