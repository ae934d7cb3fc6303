"""Regression tests for findings of config fuzzing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_factory.yaml_config import registry
from model_factory.yaml_config.check import MAX_PROBLEMS
from model_factory.yaml_config.registry import Registry
from parse_args import main
from tools.fuzzing.limits import Limits, enforce_limits

ROOT = Path(__file__).resolve().parents[2]
DECODER = "{model_type: decoder, decoder: {d_model: 16, num_layers: 1, num_heads: 2}}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_invalid(text: str, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Check an invalid file within two seconds of CPU time and return the error output."""
    Path("case.yml").write_text(text, encoding="utf-8")
    with enforce_limits(Limits(of_processor=True)):
        assert main(["--config", "case.yml", *(f"--set={option}" for option in options)]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("mark", ["\\n", "\\r", "\\e[31m", "\\0", "\\u2028", "\\u202e", "\\a"])
@pytest.mark.parametrize(
    "text", ['model: {"a%sb": 1}', '"a%sb": 1', 'datasets: ["a%sb"]', 'model: {model_type: "a%sb"}']
)
def test_error_headline_is_one_printable_line(
    text: str, mark: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = check_invalid(text % mark + "\n", capsys=capsys).split("\n")
    assert all(line.isprintable() for line in lines)
    headlines = [line for line in lines if line and not line.startswith("    ")]
    assert all(line.startswith("case.yml:1:") for line in headlines[:-1])
    assert headlines[-1] == f"{len(headlines) - 1} problem{'s' if len(headlines) > 2 else ''}"


def test_missing_extended_file_error_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("case.yml").write_text('extends: "a\\e[1m\\nb"\n')
    assert main(["--config", "case.yml"]) == 3
    assert capsys.readouterr().err.startswith("case.yml:1:10: no such file: a\\x1b[1m\\nb\n")


def test_option_error_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = check_invalid(
        f"model: {DECODER}\n", 'model.decoder.d_model="a\\\n b"', "mo\x1bdel=1", "x\u2028=1", capsys=capsys
    )
    assert '--set model.decoder.d_model="a\\\\n b": model.decoder.d_model: must be an integer' in message
    assert all(line.isprintable() for line in message.split("\n"))
    assert message.endswith("3 problems\n")


def test_error_caret_is_aligned_after_bidi_mark(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = check_invalid('training: {name: "\u202e", max_stepz: 3}\n', capsys=capsys).split("\n")
    shown, caret = lines[-4], lines[-3]
    assert shown[caret.index("^") :].startswith("max_stepz")


def test_option_with_1500_keys_is_rejected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = check_invalid(f"model: {DECODER}\n", "model" + ".a" * 1500 + "=1", capsys=capsys)
    assert message.startswith("--set model.a.a")
    assert "...: nested more than 64 deep\n1 problem\n" in message


def test_option_over_10000_characters_is_rejected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = check_invalid(f"model: {DECODER}\n", "model.name=" + "x" * 100_000, capsys=capsys)
    assert "the option has 100,011 characters, and may have 10,000; write it into the file" in message
    assert len(message) < 500


def test_option_keys_that_look_like_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = check_invalid("datasets: [{name: a, source: embedded}]\n", f"datasets.{'9' * 5000}.name=b", capsys=capsys)
    assert "the list 'datasets' has one entry, 0" in message
    message = check_invalid("x-a: 1\n", "model.007=1", capsys=capsys)
    assert "model.007" in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes need Unix")
def test_extends_rejects_devices_and_pipes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.yml")
    for name in ("pipe.yml", "/dev/stdin", "/dev/zero"):
        Path("case.yml").write_text(f"extends: {name}\n")
        with enforce_limits(Limits(seconds=20)):
            assert main(["--config", "case.yml"]) == 3
        assert f"case.yml:1:10: {name} is a device or a pipe, and extends takes files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets:\n" + "- {name: wikitext, sourc: x}\n" * 20_000, "case.yml:3334:27: more than 10,000 values"),
        ("datasets:\n" + "- {name: yesno}\n" * 300, "section 'datasets' has 300 entries; the limit is 200"),
        ("model: {" + "a: 1, " * 60_000 + "}\n", "reading stops here, after 500 problems"),
        ("model:\n" + "".join(f"  key{n}: 1\n" for n in range(1500)), "1002:3: a mapping of more than 1,000 keys"),
        ("training:\n" + "".join(f"  key{n}: 1\n" for n in range(900)), "reading stops here, after 100 problems"),
        ("training:\n  stages:\n" + "  - {x: 1, y: 1}\n" * 3000, "reading stops here, after 100 problems"),
        ("x-a: [" + "1, " * 300_000 + "]\n", "more than 10,000 values"),
        ("model: {model_type: " + "m" * 990_000 + "}\n", "unknown model type"),
    ],
)
def test_oversized_config_is_rejected_quickly(
    text: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in check_invalid(text, capsys=capsys)


def test_entry_points_are_scanned_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Regression: a list of a thousand wrong names rescanned all installed packages for minutes."""
    calls: list[str] = []
    registry._installed.cache_clear()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: calls.append(group) or [])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found: Registry[int] = Registry("thing", "fuzzing.things")
    assert [name for name in map(str, range(1000)) if name in found] == []
    assert calls == ["fuzzing.things"]
    (tmp_path / "a.dist-info").mkdir()
    os.utime(tmp_path, ns=(1, 1))
    registry._changes.cache_clear()  # otherwise only seen at the next check
    assert "x" not in found
    assert len(calls) == 2
    registry._installed.cache_clear()


def test_many_wrong_names_are_capped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ", ".join(["x"] * 3000)
    message = check_invalid(f"model: {DECODER[:-2]}, attention_type: [{wrong}]}}}}\n", capsys=capsys)
    assert message.endswith(f"{MAX_PROBLEMS + 1} problems\n")


@pytest.mark.parametrize("option", ["", "--print-config", "--json"])
def test_name_outside_output_encoding(option: str, here: Path) -> None:
    Path("case.yml").write_text(f"model: {DECODER[:-1]}, name: ü}}\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "parse_args.py"), "--config", "case.yml", *filter(None, [option])]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    if option == "--print-config":
        Path("again.yml").write_bytes(done.stdout)
        assert main(["--config", "again.yml"]) == 0
        assert b'name: "\\xfc"' in done.stdout
