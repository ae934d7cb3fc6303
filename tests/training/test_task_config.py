"""Tasks with custom keys: `training.task: {type: name, ...}` from the file to the task."""

import json

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.experiment.task_registry import TASKS, register_task
from model_factory.yaml_config.errors import ConfigError
from model_factory.yaml_config.strict_model import StrictModel
from tests.training.runs import experiment, losses, train

PLUGIN = ("--plugin", "tests.training.plugin_task")


@pytest.fixture
def scaled_task():
    """Register the task `scaled` for one test only, because other tests list the registry."""
    import sys

    import tests.training.plugin_task  # noqa: F401

    yield
    TASKS._entries.pop("scaled")
    del sys.modules["tests.training.plugin_task"]


def test_task_config_reaches_the_task_and_config_yml(tmp_path):
    path = experiment(tmp_path, max_steps=2)
    for name, task in (("one", "scaled"), ("three", "{type: scaled, factor: 3.0}")):
        words = ("--config", path, "--output", tmp_path / name, *PLUGIN, "--set", f"training.task={task}")
        assert train(*words, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert losses(tmp_path / "three")[1] == pytest.approx(3 * losses(tmp_path / "one")[1])
    assert "    factor: 3.0\n" in (tmp_path / "three" / "config.yml").read_text()
    assert train(*words, "--resume", log=tmp_path / "log") == 0  # the finished run accepts the same file
    words = ("--config", path, "--output", tmp_path / "three", "--resume", *PLUGIN)
    assert train(*words, "--set", "training.task={type: scaled, factor: 2.0}", log=tmp_path / "again") == 1
    assert "training.task.factor: 3.0 then, 2.0 now" in (tmp_path / "again").read_text()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"type": "scaled", "factr": 3.0}, "did you mean 'factor'"),
        ({"type": "scaled", "factor": "x"}, "training.task.factor"),
        ({"type": "scald"}, "did you mean 'scaled'"),
        ({"type": "language_modelling"}, "task language_modelling has no keys"),
        ({"factor": 3.0}, "training.task.type"),
        (3, "one of"),
        ("scald", "did you mean 'scaled'"),
    ],
)
def test_task_config_errors_have_positions(task, message, scaled_task, tmp_path):
    with pytest.raises(ConfigError) as error:
        read_experiment(experiment(tmp_path), [f"training.task={json.dumps(task)}"])
    assert message in str(error.value)


def test_plain_name_of_a_task_with_required_keys_is_an_error(monkeypatch, tmp_path):
    class Config(StrictModel):
        width: int

    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    register_task("wide", columns=("input_ids",), model_types=("decoder",), config=Config)(object)
    with pytest.raises(ConfigError, match=r"training\.task\.width"):
        read_experiment(experiment(tmp_path), ["training.task=wide"])
    config = read_experiment(experiment(tmp_path), ["training.task={type: wide, width: 3}"]).config
    assert config.training.task_name == "wide"
    assert config.training.task.model_dump() == {"type": "wide", "width": 3}


def test_task_config_is_in_json_schema(scaled_task):
    from pydantic import TypeAdapter

    from model_factory.experiment.training_types import TrainingConfig

    schema = json.dumps(TypeAdapter(TrainingConfig).json_schema())
    assert '"const": "scaled"' in schema
