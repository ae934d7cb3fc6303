"""Loading a run with `open_run`: one parse, one task, and the order of errors."""

import pytest

from model_factory.evaluation.run import open_run
from model_factory.experiment import config
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.tasks.base import Task
from model_factory.yaml_config.errors import ConfigError
from tests.evaluation.untrained_runs import DECODER, make_run, text_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return make_run(folder, DECODER, text_data(folder), "language_modelling")


def counting(monkeypatch, owner, name):
    """Count the calls of a function, which still runs."""
    calls, function = [], getattr(owner, name)

    def count(*args, **options):
        calls.append(args)
        return function(*args, **options)

    monkeypatch.setattr(owner, name, count)
    return calls


@pytest.mark.parametrize("overrides", [[], ["generation.num_samples=9", "datasets.0.sequence_length=16"]])
def test_open_run_parses_once_and_builds_one_task(overrides, run, monkeypatch):
    parses = counting(monkeypatch, config, "read_document")
    tasks = counting(monkeypatch, Task, "__init__")
    opened = open_run(run, overrides)
    assert (len(parses), len(tasks)) == (1, 1)
    assert opened.task.setting.config is opened.config
    assert opened.generation.num_samples == (9 if overrides else 3)


@pytest.mark.parametrize("override", ["model.name=x", " model.decoder.dropout=0.5", "model={}"])
def test_open_run_refuses_model_overrides(override, run):
    with pytest.raises(UnfitError, match="the model of a trained run cannot be changed"):
        open_run(run, [override])


@pytest.mark.parametrize("overrides", [[], ["generation.num_samples=9"], ["generation.nope=1"]])
def test_open_run_names_an_invalid_file_before_overrides(overrides, tmp_path):
    run = make_run(tmp_path, DECODER, text_data(tmp_path), "language_modelling")
    path = run / "config.yml"
    path.write_text(path.read_text().replace("max_steps:", "max_stepz:"))
    with pytest.raises(RunFolderError, match="cannot be read as an experiment"):
        open_run(run, overrides)
    path.unlink()
    with pytest.raises(RunFolderError, match=r"config\.yml is not there"):
        open_run(run, overrides)


def test_open_run_names_invalid_overrides(run):
    with pytest.raises(ConfigError, match="unknown key 'nope'"):
        open_run(run, ["generation.nope=1"])
