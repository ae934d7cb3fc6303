"""`tokenizer: {run: ...}`: the tokenizer of a run, for fine-tuning on other text, resuming, and evaluating."""

import shutil
from pathlib import Path

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.text.types import TextDatasetConfig
from data_manager.tokenizers.load import load_tokenizer
from model_factory.cli.evaluate import main as evaluate
from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.errors import ConfigError
from tests.training.runs import experiment, text, train

BPE = {"type": "bpe", "vocab_size": 262}


OLD, NEW = "the quick brown fox jumps over the lazy dog\n", "Größe and weight of the lazy fox, 1234567890\n"


def tune(folder, tokenizer, *, content=NEW, **training):
    """Write an experiment on `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(content * 8)
    files = dict.fromkeys(("train", "validation"), str(folder / "text.txt"))
    datasets = [text("tuned", files, sequence_length=24, tokenizer=tokenizer)]
    return experiment(folder, datasets=datasets, max_steps=4, eval_steps=4, **training)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    path, log = tune(folder, BPE, content=OLD), folder / "log"
    assert train("--config", path, "--output", folder / "run", log=log) == 0, log.read_text()
    return folder / "run"


def test_run_is_fine_tuned_resumed_and_evaluated_with_the_tokenizer_of_another(base, tmp_path, capsys):
    first, log = tmp_path / "first", tmp_path / "log"
    shutil.copytree(base, first)
    path = tune(tmp_path / "tune", {"run": str(first)}, init_from=str(first))
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    theirs, ours = (load_tokenizer(run / "tokenizer").identity() for run in (first, tmp_path / "run"))
    assert theirs == ours
    shutil.rmtree(first)  # the run has its own copy
    assert evaluate(["--run", str(tmp_path / "run"), "--num-samples", "0", "--split", "validation"]) == 0
    assert "bits_per_token" in capsys.readouterr().out
    (tmp_path / "run" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert train("--config", path, "--output", tmp_path / "run", "--resume", log=log) == 0, log.read_text()
    assert load_tokenizer(tmp_path / "run" / "tokenizer").identity() == theirs


def test_run_continues_on_other_text_with_its_own_tokenizer(base, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(base, run)
    for tokenizer, code in ((BPE, 1), ({"run": str(base)}, 1), ({"run": str(run)}, 0)):
        path = tune(tmp_path / "new", tokenizer)
        more = ("--resume", "--set", "training.max_steps=6")
        assert train("--config", path, "--output", run, *more, log=log) == code, log.read_text()
        if code:
            assert "the run" in log.read_text()
    assert load_tokenizer(run / "tokenizer").identity() == load_tokenizer(base / "tokenizer").identity()
    assert train("--config", path, "--output", run, *more[:2], "training.max_steps=8", log=log) == 0, log.read_text()


def test_init_from_says_which_tokenizer_fits(base, tmp_path):
    path, log = tune(tmp_path / "tune", BPE, init_from=str(base)), tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 1
    assert f"use the run's tokenizer for the data set: tokenizer: {{run: {base}}}" in log.read_text()
    path = tune(tmp_path / "tune", {"type": "characters"}, init_from=str(base))
    with pytest.raises(
        ConfigError, match=r"a tokenizer of bpe, and this data set's is of characters; try tokenizer: {run:"
    ):
        read_experiment(path)


def test_tokenizer_of_a_run_is_checked_at_its_line(base, tmp_path):
    for name, message in (("empty", "has no tokenizer"), ("file", "is a file")):
        place = tmp_path / name
        place.mkdir() if name == "empty" else place.write_text("x")
        with pytest.raises(ConfigError, match=message) as error:
            read_experiment(tune(tmp_path / "tune", {"run": str(place)}))
        assert [problem.path for problem in error.value.problems] == ["datasets.0.tokenizer.run"]
    other = tmp_path / "other"
    (other / "tokenizer").mkdir(parents=True)
    (other / "tokenizer" / "vocabulary.json").write_text('{"type": "bytes"}')
    with pytest.raises(ConfigError, match="was trained with another tokenizer than that of") as error:
        read_experiment(tune(tmp_path / "tune", {"run": str(other)}, init_from=str(base)))


def test_settings_of_the_tokenizer():
    assert TokenizerConfig.model_validate({"run": "runs/x"}).type == "run"
    for wrong, message in (({"type": "bytes", "run": "x"}, "has no run"), ({"type": "run"}, "needs run")):
        with pytest.raises(ValueError, match=message):
            TokenizerConfig.model_validate(wrong)
    config = TextDatasetConfig(name="a", data_files={"train": "a.txt"}, tokenizer=TokenizerConfig(run="absent"))
    with pytest.raises(DataError, match="the run of the tokenizer, 'absent' is not there"):
        DatasetManager.tokenizer(config)
    config = config.model_copy(update={"tokenizer": TokenizerConfig(run=str(Path(__file__).parent))})
    with pytest.raises(DataError, match="has no tokenizer"):
        DatasetManager.tokenizer(config)
