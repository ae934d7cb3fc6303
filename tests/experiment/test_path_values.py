"""Paths of a file: `${env:NAME}` is filled in, other variables are errors, data files are found beside the YAML file."""

import os
from pathlib import Path

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.errors import ConfigError

DATA = "datasets: [{{name: t, source: text, data_files: {{train: {}}}, tokenizer: {{type: bytes}}}}]\n"


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.yml").write_text(text, encoding="utf-8")
    return folder / "a.yml"


def train_file(path: Path) -> str:
    [entry] = read_experiment(path).config.datasets
    return entry.data_files["train"]


def test_environment_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("CORPORA", "/corpora")
    config = write(
        tmp_path, "global_config: {output_dir: '${env:CORPORA}/prepared'}\n" + DATA.format("'${env:CORPORA}/a.txt'")
    )
    found = read_experiment(config).config
    assert found.datasets[0].data_files == {"train": "/corpora/a.txt"}
    assert found.global_config.output_dir == "/corpora/prepared"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${env:NOT_SET}/a.txt", "the environment variable NOT_SET is not set"),
        ("${oc.env:HOME}/a.txt", r"'${oc.env:HOME}' is not filled in; write ${env:HOME} for an environment variable"),
        ("${HOME}/a.txt", r"write ${env:HOME}"),
        ("$HOME/a.txt", r"'$HOME' is not filled in; write ${env:HOME}"),
        ("%USERPROFILE%/a.txt", r"write ${env:USERPROFILE}"),
    ],
)
def test_other_variables_are_errors_at_their_place(value, message, tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ConfigError) as caught:
        read_experiment(write(tmp_path, DATA.format(f"'{value}'")))
    [problem] = caught.value.problems
    assert problem.path == "datasets.0.data_files.train"
    assert message in problem.message


def test_a_path_that_exists_is_used_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$HOME").mkdir()
    (tmp_path / "$HOME" / "a.txt").write_text("a")
    assert train_file(write(tmp_path, DATA.format("'$HOME/a.txt'"))) == "$HOME/a.txt"


def test_data_files_are_found_beside_the_yaml_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "here", DATA.format("a.txt"))
    assert train_file(config) == "a.txt"  # nowhere yet
    (tmp_path / "here" / "a.txt").write_text("beside")
    assert train_file(config) == str(tmp_path / "here" / "a.txt")
    assert train_file(Path("here/a.yml")) == str(tmp_path / "here" / "a.txt")
    (tmp_path / "data" / "t").mkdir(parents=True)
    (tmp_path / "data" / "t" / "a.txt").write_text("corpus")
    assert train_file(config) == "a.txt"  # the corpus folder comes first, as before
    os.remove(tmp_path / "data" / "t" / "a.txt")
    (tmp_path / "a.txt").write_text("working directory")
    assert train_file(config) == "a.txt"


def test_patterns_are_found_beside_the_yaml_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / "here", DATA.format("'*.txt'"))
    (tmp_path / "here" / "b.txt").write_text("b")
    assert train_file(config) == str(tmp_path / "here" / "*.txt")


def test_a_file_that_is_extended_has_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base", DATA.format("a.txt"))
    (tmp_path / "base" / "a.txt").write_text("a")
    config = write(tmp_path / "here", "extends: ../base/a.yml\n")
    assert train_file(config) == str(tmp_path / "base" / "a.txt")


def test_init_from_is_found_beside_the_yaml_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "run").mkdir(parents=True)
    config = write(tmp_path / "here", DATA.format("a.txt") + "training: {init_from: run}\n")
    with pytest.raises(ConfigError, match=r"here/run has no model.safetensors"):
        read_experiment(config)


def test_missing_file_of_an_option_names_no_folder_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from parse_args import main

    config = write(tmp_path, DATA.format("a.txt"))
    assert main(["--config", str(config), "--set", "datasets.0.data_files.train=nowhere.txt"]) == 0
    note = capsys.readouterr().err
    assert "'nowhere.txt' is not there yet; looked for in" in note
    assert "/--set" not in note


def test_configs_of_runs_are_read_as_written(tmp_path):
    config = write(tmp_path, DATA.format("'$HOME/a.txt'"))
    [entry] = read_experiment(config, will_train=False).config.datasets
    assert entry.data_files == {"train": "$HOME/a.txt"}
