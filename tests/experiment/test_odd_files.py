"""Files that are no regular files, and sizes out of bounds: nothing waits for ever, and pipes that end are read."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data_manager.errors import DataError
from model import hub
from model.hub import HubError
from model_factory.yaml_config import document
from parse_args import main
from tests.data_manager.text_configs import text_config, texts
from tests.model.test_hugging_face_denoiser import build, pretrained

ROOT = Path(__file__).resolve().parents[2]
ENCODER = "model: {model_type: encoder, encoder: {d_model: 16, num_layers: 1, num_heads: 2}}\n"


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(document, "_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_config_pipe_without_a_writer_is_reported(pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(pipe)]) == 3
    assert f"{pipe} cannot be read: it is a pipe, and nothing writes to it" in capsys.readouterr().err


def test_config_pipe_is_read_when_its_writer_is_done(pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    may_write = threading.Event()

    def write() -> None:
        with pipe.open("w") as file:
            may_write.wait()
            file.write(ENCODER)

    writer = threading.Thread(target=write)
    writer.start()
    timer = threading.Timer(0.6, may_write.set)
    timer.start()
    assert main(["--config", str(pipe)]) == 0
    writer.join()
    out, err = capsys.readouterr()
    assert out == f"{pipe}: good: model 'model' (encoder)\n"
    assert err.count("waiting for the pipe's writer") == 1


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (ENCODER, 0, "/dev/stdin: good: model 'model' (encoder)"),
        ("", 1, "/dev/stdin:1:1: the file is empty"),
        ("#" * 1_000_100, 3, "/dev/stdin has 1.0 MB, and a configuration at most 1 MB"),
    ],
    ids=["good", "empty", "large"],
)
def test_config_from_standard_input(text: str, code: int, words: str) -> None:
    command = [sys.executable, "parse_args.py", "--config", "/dev/stdin"]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    assert words in done.stdout + done.stderr
    assert done.returncode == code


def test_data_files_are_regular_files(pipe: Path) -> None:
    for name in ("/dev/zero", str(pipe)):
        with pytest.raises(DataError, match=f"data set 'tiny': .*'{name}' is a device or a pipe, which may never end"):
            texts(text_config(pipe.parent, {"train": name}))


def test_pretrained_config_with_a_million_layers_is_refused(tmp_path: Path) -> None:
    model = pretrained("Bert", tmp_path)
    model.config.num_hidden_layers = 1_000_000
    model.config.save_pretrained(tmp_path)
    with pytest.raises(HubError, match=r"config\.json has num_hidden_layers 1,000,000, and at most 10,000 fit"):
        build(tmp_path)


def test_pretrained_config_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    pretrained("Bert", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "brt"'))
    with pytest.raises(
        HubError, match=r"transformers has no architecture 'brt', which config\.json names as model_type"
    ):
        build(tmp_path)


def test_slow_loading_of_a_pretrained_model_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained("Bert", tmp_path)
    monkeypatch.setattr(hub, "_TIMEOUT", 0.0)
    build(tmp_path)
    assert f"note: loading the pretrained model {tmp_path} of 2 layers ..." in caplog.text
