"""Registries of processes, schedules, objectives and samplers: plugins from a file, what fits what, imports."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.model_factory import create_model
from model_factory.diffusion import registry
from model_factory.diffusion.registry import (
    OBJECTIVES,
    PROCESSES,
    SAMPLERS,
    SCHEDULES,
    combinations,
    processes_of,
    samplers_of,
)
from model_factory.experiment.config import read_experiment
from model_factory.experiment.json_schema import experiment_schema
from model_factory.yaml_config.errors import ConfigError
from model_factory.yaml_config.from_registry import section_type
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel
from tools.documentation.diffusion_tables import render_combinations_table, render_samplers_table

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "tests.diffusion.plugin_parts"
REGISTRIES: tuple[Registry[object], ...] = (PROCESSES, SCHEDULES, OBJECTIVES, SAMPLERS)
NAMES = ("skewed", "power", "scaled", "lazy")
FILE = """\
model:
  model_type: diffusion
  process: {type: skewed, first: 0.7}
  schedule: {type: power, eps: 0.01}
  objective: {type: scaled, scale: 2.0}
  backbone: {type: ddit, d_model: 16, num_layers: 1, num_heads: 2, device: cpu}
  vocab_size: 5
  length: 6
generation:
  sampler: {type: lazy, patience: 3}
  steps: 2
"""


def run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def plugin() -> Iterator[None]:
    """Register the plugin's parts for one test."""
    importlib.import_module(PLUGIN)
    yield
    for one, name in zip(REGISTRIES, NAMES, strict=True):
        del one._entries[name]
    del sys.modules[PLUGIN]


def problems_of(tmp_path: Path, *edits: tuple[str, str]) -> str:
    text = FILE
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    file = tmp_path / "case.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_experiment(file)
    return str(raised.value)


def test_plugin_parts_are_used_from_a_file(plugin: None, tmp_path: Path) -> None:
    (tmp_path / "case.yml").write_text(FILE)
    config = read_experiment(tmp_path / "case.yml").config
    assert config.generation is not None
    model = create_model(config.model)
    assert float(model.process.graph.limit[0]) == pytest.approx(0.7)
    assert model.process.schedule.eps == 0.01
    state = model.draw(3, steps=2, sampler=config.generation.sampler_choice)
    assert state.network_calls.tolist() == [6] * 3
    assert config.generation.sampler_choice == {"type": "lazy", "patience": 3}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("first: 0.7", "first: 1.7", "model.process.first"),
        ("eps: 0.01", "epz: 0.01", "did you mean 'eps'"),
        ("scale: 2.0", "scale: x", "model.objective.scale"),
        ("patience: 3", "patience: 10", "generation.sampler.patience"),
        ("type: lazy", "type: lasy", "lazy"),
        ("type: skewed", "type: skewd", "skewed"),
        ("type: power", "type: powr", "power"),
        ("type: scaled", "type: scald", "scaled"),
        ("process: {type: skewed, first: 0.7}", "process: {type: uniform}", "absorbing or skewed noise"),
        ("{type: lazy, patience: 3}", "first_hitting", "ancestral, analytic, euler, predictor_corrector, lazy"),
        ("{type: scaled, scale: 2.0}", "{type: mdlm}", "objective: {type: scaled}"),
    ],
)
def test_plugin_parts_are_checked_in_a_file(plugin: None, tmp_path: Path, before: str, after: str, words: str) -> None:
    assert words in problems_of(tmp_path, (before, after))


def test_plugin_parts_are_in_tables_and_schema(plugin: None) -> None:
    fits, accuracy = render_combinations_table(), render_samplers_table()
    assert "| skewed | sedd, d3pm, gidd, scaled | loglinear, geometric, cosine, linear, discrete, power |" in fits
    assert "| lazy | absorbing, uniform, hybrid, skewed | - | convergent | ancestral, with more steps |" in accuracy
    assert ("skewed", "power", "scaled", "lazy") in set(combinations())
    schema = json.dumps(experiment_schema())
    for key in ("first", "scale", "patience"):
        assert f'"{key}"' in schema
    for name in NAMES:
        assert f'"const": "{name}"' in schema


def test_plugin_option_registers_parts(tmp_path: Path) -> None:
    """In a new process, where the plugin is imported before any built-in part."""
    (tmp_path / "case.yml").write_text(FILE)
    script = f"import sys, {PLUGIN}\nfrom model_factory.diffusion.registry import *\nprint(*SAMPLERS, *PROCESSES, 'torch' in sys.modules)"
    names = run_python("-c", script).split()
    assert names[:2] == ["analytic", "euler"]
    assert names[-6:] == ["lazy", "absorbing", "uniform", "hybrid", "skewed", "False"]
    run_python("parse_args.py", "--plugin", PLUGIN, "--config", str(tmp_path / "case.yml"))


@pytest.mark.parametrize("one", REGISTRIES, ids=lambda one: one.kind)
def test_names_are_registered_once_after_the_built_in(one: Registry[object]) -> None:
    name = one.names()[0]
    decorator = getattr(registry, f"register_{one.kind}")
    with pytest.raises(ValueError, match=f"{one.kind} '{name}' is already registered"):
        decorator(name)(lambda config: None)


def test_base_sampler_import_registers_all_samplers() -> None:
    script = "import model_factory.diffusion.samplers.base as b\ntry: b.create_sampler('x', None, None, 1)\nexcept ValueError as e: print(e)"
    message = run_python("-c", script)
    assert message.startswith("sampler: got 'x'; expected one of analytic, ancestral")


def test_looking_up_every_part_imports_no_torch() -> None:
    script = "import sys\nfrom model_factory.diffusion.registry import *\nassert list(combinations())\nprint('torch' in sys.modules)"
    assert run_python("-c", script).strip() == "False"


def test_mathematics_imports_no_configuration() -> None:
    """Only the registry, the built-in parts and the lookup of samplers by name know config types."""
    allowed = {"registry.py", "built_in.py", "base.py"}
    for path in (ROOT / "diffusion").rglob("*.py"):
        modules = [
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert path.name in allowed or not any(name.startswith("yaml_config") for name in modules), path


def test_type_is_added_to_a_config_without_one() -> None:
    class Config(StrictModel):
        width: int = 3

    made = section_type("mine", Config, StrictModel)
    assert made.model_validate({"type": "mine", "width": 4}).model_dump() == {"type": "mine", "width": 4}
    assert made().model_dump() == {"type": "mine", "width": 3}
    with pytest.raises(ValueError, match="type"):
        made(type="other")
    assert section_type("mine", made, StrictModel) is made


def test_default_sampler_is_first_where_the_objective_has_none_of_its_own() -> None:
    for process in PROCESSES:
        for objective in OBJECTIVES:
            if process in processes_of(objective):
                first = samplers_of(process, objective)[0]
                expected = "first_hitting" if process == "absorbing" else "ancestral"
                assert first == {"bd3lm": "semi_autoregressive", "flexmdm": "insertion"}.get(objective, expected)
