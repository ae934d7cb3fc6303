"""`model.pretrained`: the settings and weights of a run, under the keys that the file sets itself."""

from pathlib import Path

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.errors import ConfigError

MODEL = """\
model:
  model_type: diffusion
  vocab_size: 5
  length: 4
  process: {type: absorbing}
  objective: {type: mdlm}
  backbone: {type: ddit, d_model: 8, num_layers: 1, num_heads: 2, cond_dim: 4, device: cpu}
"""


def write(folder: Path, text: str) -> Path:
    run = folder / "run"
    run.mkdir()
    (run / "config.yml").write_text(MODEL)
    file = folder / "tune.yml"
    file.write_text(text.replace("RUN", str(run)))
    return file


def test_own_keys_replace_those_of_the_run(tmp_path: Path) -> None:
    text = "model: {pretrained: RUN, schedule: {type: loglinear, eps: 0}, backbone: {dropout: 0.2}}\ntraining: {max_steps: 1}\n"
    config = read_experiment(write(tmp_path, text), will_train=False).config
    model = config.to_dict()["model"]
    assert model["schedule"]["eps"] == 0
    assert (model["backbone"]["d_model"], model["backbone"]["dropout"]) == (8, 0.2)
    assert "pretrained" not in model
    assert config.training is not None
    assert config.training.init_from == str(tmp_path / "run")


def test_init_from_of_the_file_stays(tmp_path: Path) -> None:
    text = "model: {model_type: diffusion, pretrained: RUN}\ntraining: {max_steps: 1, init_from: other}\n"
    config = read_experiment(write(tmp_path, text), will_train=False).config
    assert config.training is not None
    assert config.training.init_from == "other"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "owner/name",
            "owner/name is neither a folder nor in the hub's cache, and the hub cannot be reached (the environment sets "
            "HF_HUB_OFFLINE); download it where there is a network and give its folder; for its options make a run of it: "
            "model-factory import --from owner/name --output runs/imported",
        ),
        ("[RUN]", "expected a run or a name on the hub, not a list"),
        ("RUN/..", "is neither the folder of a run nor that of a published model, with config.json"),
        ("./none", "./none: there is no such folder or file"),
    ],
)
def test_what_is_no_run_is_a_problem_with_its_line(tmp_path: Path, value: str, message: str) -> None:
    file = write(tmp_path, f"model:\n  model_type: diffusion\n  pretrained: {value}\n")
    with pytest.raises(ConfigError) as raised:
        read_experiment(file)
    (problem,) = (item for item in raised.value.problems if item.path == "model.pretrained")
    assert message in problem.message
    assert problem.place.line == 3


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ("{pretrained: RUN, revision: main}", "model.revision", "is here, and a revision is of a name on the hub"),
        ("{pretrained: owner/name, revision: 12}", "model.revision", "expected a commit, branch or tag in quotes"),
        ("{pretrained: owner/name@main, revision: main}", "model.revision", "names a revision already"),
        ("{pretrained: RUN, model_type: decoder}", "model.model_type", "is of the type 'diffusion'"),
        ("{model_type: diffusion, revision: main}", "model.revision", "unknown key"),
    ],
)
def test_keys_that_contradict_pretrained_are_problems(tmp_path: Path, keys: str, path: str, message: str) -> None:
    file = write(tmp_path, f"model: {keys}\n")
    with pytest.raises(ConfigError) as raised:
        read_experiment(file)
    assert any(item.path == path and message in item.message for item in raised.value.problems)


def test_weights_are_named_without_a_training_section(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b\n")
    data = (
        f"datasets: [{{name: a, source: text, data_files: {{train: {tmp_path}/a.txt}}, tokenizer: {{type: bytes}}}}]\n"
    )
    config = read_experiment(
        write(tmp_path, "model: {pretrained: RUN, vocab_size: 300}\n" + data), will_train=False
    ).config
    assert config.training is not None
    assert config.training.init_from == str(tmp_path / "run")
