"""Settings of samplers, from a file to the sampler that draws."""

from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import torch

from model.model_factory import create_model
from model_factory.diffusion.objectives.insertion import GapParameterisation
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from model_factory.diffusion.registry import SAMPLERS
from model_factory.diffusion.samplers.base import create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.experiment.config import read_experiment
from model_factory.experiment.print_config import print_config
from model_factory.yaml_config.strict_model import StrictModel

FILE = """\
model:
  model_type: diffusion
  objective: {type: mdlm}
  backbone: {type: ddit, d_model: 16, num_layers: 1, num_heads: 2}
  vocab_size: 9
  length: 12
generation:
  sampler: CHOICE
"""


def generation_of(tmp_path: Path, choice: str) -> tuple[Any, Any]:
    file = tmp_path / "case.yml"
    file.write_text(FILE.replace("CHOICE", choice))
    experiment = read_experiment(file)
    again = tmp_path / "again.yml"
    again.write_text(print_config(experiment))
    assert read_experiment(again).config == experiment.config
    return experiment.config.generation, experiment.config.model


def test_defaults_in_files_equal_the_samplers() -> None:
    process = DiffusionProcess(AbsorbingGraph(3), LogLinearNoise())
    readings = (X0Parameterisation(process.graph), GapParameterisation(process, counts=True))
    for name in SAMPLERS:
        denoiser = Denoiser(torch.zeros, readings[SAMPLERS.get(name).variable_length])
        config: StrictModel = SAMPLERS.get(name).config_type.model_validate({"type": name})
        parameters = signature(type(create_sampler(name, process, denoiser, 2))).parameters.values()
        defaults = {one.name: one.default for one in parameters if one.kind is Parameter.KEYWORD_ONLY}
        assert config.model_dump(exclude={"type"}) == defaults, name


@pytest.mark.parametrize(
    ("choice", "given"),
    [
        ("ancestral", "ancestral"),
        ("{type: ancestral}", {"type": "ancestral"}),
        ("{type: remasking, eta_cap: 0.2}", {"type": "remasking", "eta_cap": 0.2, "eta_rescale": 1.0}),
        ("null", None),
    ],
)
def test_sampler_is_a_name_or_a_mapping(choice: str, given: object, tmp_path: Path) -> None:
    generation, _ = generation_of(tmp_path, choice)
    assert generation.sampler_choice == given
    assert generation.sampler_name == (given["type"] if isinstance(given, dict) else given)


def test_settings_reach_the_sampler(tmp_path: Path) -> None:
    """Unmask all tokens in one call with a large bound, one token per call with bound 0."""
    for gamma, calls in ((1000.0, 1), (0.0, 12)):
        generation, model = generation_of(tmp_path, f"{{type: entropy_bounded, gamma: {gamma}}}")
        torch.manual_seed(0)
        assert create_model(model).draw(3, sampler=generation.sampler_choice).network_calls.tolist() == [calls] * 3
