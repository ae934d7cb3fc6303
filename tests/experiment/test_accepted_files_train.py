"""A file that the check calls good trains a step: random files, paired with data that fit.

`ACCEPTED_FILES=300 pytest tests/experiment/test_accepted_files_train.py` tries more of them, `ACCEPTED_FILES_SEED=N` others.
"""

import os
from pathlib import Path

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.trial import try_step
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError
from tests.experiment.random_files import Files, write_data

COUNT = int(os.environ.get("ACCEPTED_FILES", "30"))
SEED = int(os.environ.get("ACCEPTED_FILES_SEED", "0"))
WHOLE_RUNS = 10
"""One in `WHOLE_RUNS` accepted files is trained by the whole engine, with an evaluation and samples."""


def test_accepted_files_train_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    accepted = rejected = 0
    kinds: set[str] = set()
    failures = []
    seed = SEED * 1_000_000
    while accepted < COUNT:
        seed += 1
        path = tmp_path / f"{seed}.yml"
        path.write_text(dump(Files(seed, tmp_path).experiment()))
        try:
            config = read_experiment(path).config
        except ConfigError:
            rejected += 1
            continue
        accepted += 1
        assert config.model is not None
        kinds.add(config.model.model_type)
        try:
            if accepted % WHOLE_RUNS == 0:
                train(config, tmp_path / f"run-{seed}")
            else:
                try_step(config)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}\n{path.read_text()}")
    assert not failures, f"{len(failures)} of {COUNT} accepted files fail:\n\n" + "\n\n".join(failures)
    assert len(kinds) == 5
    assert accepted > rejected / 10
