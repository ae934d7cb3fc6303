"""Control characters in names, texts and messages are escaped before they are printed."""

import shutil
import stat
from argparse import Namespace
from unittest.mock import MagicMock

import pytest

from data_manager.cache import STAMP
from data_manager.data_manager import DatasetManager
from data_manager.progress import progress, progress_counter
from data_manager.tokenizers.simple import ByteTokenizer
from model_factory.cli.data import main as load_data
from model_factory.cli.evaluate import main as evaluate
from model_factory.cli.generate import _print
from model_factory.cli.generate import main as generate
from model_factory.cli.train_run import _report
from model_factory.evaluation.sampling.prompt import PromptError, read_template
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import escape_controls
from parse_args import main
from tests.data_manager.text_configs import text_config, texts
from tests.training.runs import experiment, train
from train import main as train_main

RED = "\x1b[31mred\x1b]0;title\x07"
ENCODER = {"d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}


def test_escape_keeps_lines_and_letters():
    text = "a\tb\n\u3000 \xa0\u200d\U0001f600"
    assert escape_controls(text) == text
    assert (
        escape_controls(RED + "\r\x00\x9b\u202e\ud800") == "\\x1b[31mred\\x1b]0;title\\x07\\r\\x00\\x9b\\u202e\\ud800"
    )


@pytest.mark.parametrize("option", [[], ["--summary"], ["--build"]], ids=str)
def test_model_name_is_escaped(option, tmp_path, capsys):
    path = tmp_path / "x.yml"
    path.write_text(dump({"model": {"model_type": "encoder", "name": RED, "encoder": ENCODER}}))
    assert main(["--config", str(path), *option]) == 0
    out = capsys.readouterr().out
    assert "red" in out
    assert "\x1b" not in out


def test_file_name_is_escaped_in_origin_comments(tmp_path, capsys):
    path = tmp_path / f"{RED}\nmodel: 3 # "
    path.write_text(dump({"model": {"model_type": "encoder", "name": "a", "encoder": ENCODER}}))
    options = ["--set", "model.name=b\n# c", "--print-config", "--config"]
    assert main([*options, str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "# --set model.name=b\\n# c\n" in out
    again = tmp_path / "again.yml"
    again.write_text(out)
    assert main(["--config", str(again)]) == 0
    assert main(["--config", str(path), "--summary", "--html", str(tmp_path / f"{RED}.html")]) == 0
    out, err = capsys.readouterr()
    assert "page written to " in err
    assert "\x1b" not in out + err


def test_samples_are_escaped(capsys):
    _print({"notes": [RED], "samples": [{"prompt": RED, "text": f"{RED}\nsecond line"}]}, as_json=False)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert out.endswith("\nsecond line\n")


def test_column_names_are_escaped(tmp_path, capsys):
    (tmp_path / "a.csv").write_text(f"{RED},other\nx,y\n")
    data = {"name": "rows", "source": "csv", "data_files": {"train": str(tmp_path / "a.csv")}, "column": "text"}
    path = experiment(tmp_path / "e", datasets=[data])
    assert load_data(["--config", str(path)]) == 4
    assert train("--config", path, "--output", tmp_path / "run", log=tmp_path / "log") == 4
    for said in (capsys.readouterr().err, (tmp_path / "log").read_text()):
        assert "there is no column 'text'" in said
        assert "\x1b" not in said


@pytest.mark.parametrize("streaming", [False, True])
def test_data_logs_are_escaped(streaming, tmp_path, caplog):
    folder = tmp_path / RED
    folder.mkdir()
    (folder / f"{RED}.txt").write_text("one\n\ntwo\n")
    config = text_config(folder, {"train": f"{RED}.txt"}, documents="line", streaming=streaming)
    assert texts(config) == ["one", "two"]
    if not streaming:
        (DatasetManager.preparation(config)["train"].folder / "rows.arrow").write_bytes(b"x")
        assert texts(config) == ["one", "two"]
        assert "is created again" in caplog.text
    assert "1 skipped: empty line" in caplog.text
    assert "\x1b" not in caplog.text


def test_progress_labels_are_escaped(monkeypatch):
    labels = []
    monkeypatch.setattr("tqdm.tqdm", lambda *items, desc="", **_: MagicMock(labels.extend([*items, desc])))
    progress([], RED)
    with progress_counter(RED, "tokens"):
        assert "red" in str(labels)
    assert "\x1b" not in "".join(map(str, labels))


def test_unused_folders_are_escaped(tmp_path, capsys):
    left = tmp_path / "e" / "manifests" / "tiny" / RED
    left.mkdir(parents=True)
    (left / STAMP).touch()
    path = experiment(tmp_path / "e")
    with path.open("a") as file:
        file.write(dump({"global_config": {"output_dir": str(tmp_path / "e" / "manifests")}}))
    assert load_data(["--config", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 cached folder not used by this file" in out
    assert "\x1b" not in out


def test_run_folder_is_escaped(tmp_path, monkeypatch, capsys):
    path, run, log = experiment(tmp_path / "e", max_steps=1), tmp_path / "runs" / RED, tmp_path / "log"
    for option in ([], ["--resume"]):
        assert train("--config", path, "--output", run, *option, log=log) == 0
    said = log.read_text()
    assert "trained to step 1" in said
    assert "this run is finished" in said
    monkeypatch.chdir(tmp_path)
    assert generate(["--num-samples", "1"]) == 0
    out, err = capsys.readouterr()
    assert "the newest run" in err
    assert "\x1b" not in said + out + err


def test_traceback_is_escaped(capsys):
    assert _report(TypeError(RED), Namespace(config="a.yml", output="none")) == 4
    err = capsys.readouterr().err
    assert "TypeError: \\x1b[31mred" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    "prompt", ["a\ud800", "[[" + "9" * 5000 + "]]", "[[9999999999]]"], ids=["half", "long", "many"]
)
def test_invalid_prompts_are_refused(prompt):
    with pytest.raises(PromptError, match=r"half of a character|the prompt has '\[\[9"):
        read_template(prompt, ByteTokenizer(), 16)


@pytest.mark.parametrize("folder", ["", "configs/"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 300, "cannot be read: File name too long"), ("a\0b", "cannot be a file's name"), ("\ud800", "cannot be")],
    ids=["long", "null", "half"],
)
def test_impossible_file_names_are_refused(name, reason, folder, capsys):
    assert main(["--config", folder + name]) == 3
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--run", "--sampler", "--steps", "--num-samples", "--split", "--html", "--device"])
def test_empty_options_are_wrong_usage(option, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate([f"{option}="])
    assert ended.value.code == 2
    assert f"{option} is empty" in capsys.readouterr().err


def test_broken_plugin_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_types.py").write_text("def f()\n    pass\n")
    (tmp_path / "raising_types.py").write_text("raise RuntimeError('no luck')\n")
    for name, words in (
        ("broken_types", "SyntaxError: expected ':' (broken_types.py, line 1)"),
        ("raising_types", f"RuntimeError: no luck ({tmp_path}/raising_types.py, line 1)"),
        ("no_such_types", "No module named 'no_such_types'"),
        ("raising_types.py", "not of a file: --plugin raising_types"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--config", "x.yml", "--plugin", name])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (generate, ["--run", "a", "--condition="]),
        (main, ["--config", "configs/encoder_model.yml", "--summary", "--html="]),
        (main, ["--config", "configs/encoder_model.yml", "--html="]),
        (train_main, ["--config", "configs/full_experiment.yml", "--output="]),
        (train_main, ["--output", "a", "--config="]),
    ],
    ids=["condition", "html of a summary", "html alone", "output", "config"],
)
def test_empty_options_of_other_verbs_are_wrong_usage(verb, words, capsys):
    with pytest.raises(SystemExit) as ended:
        verb(words)
    assert ended.value.code == 2
    assert f"{words[-1][:-1]} is empty; give it " in capsys.readouterr().err


@pytest.mark.parametrize("module", ["", ".x", "..", "a b"])
def test_plugin_names_are_checked(module, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--config", "configs/encoder_model.yml", f"--plugin={module}"])
    assert ended.value.code == 2
    assert "--plugin takes the name of a module" in capsys.readouterr().err


def test_tiny_temperature_is_greedy(capsys):
    options = ["--config", "configs/full_experiment.yml", "--set"]
    assert main([*options, "generation.temperature=1e-300"]) == 1
    assert "temperature 1e-300 is below 0.001, where logits overflow" in capsys.readouterr().err
    assert main([*options, "generation.temperature=0"]) == 0


def test_run_files_share_permissions_and_bad_steps_are_ignored(tmp_path):
    path, run = experiment(tmp_path, max_steps=2, save_steps=1), tmp_path / "run"
    assert train("--config", path, "--output", run) == 0
    modes = {stat.S_IMODE(file.stat().st_mode) for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    assert modes == {stat.S_IMODE((run / "config.yml").stat().st_mode)}
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-2")
    samples = run / "samples.txt"
    samples.write_text(samples.read_text() + f"===== step {'9' * 5000} =====\n")
    assert train("--config", path, "--output", run, "--resume") == 0
