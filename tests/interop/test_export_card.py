"""Model cards: valid front matter, every figure with its command and interval, a licence that is never invented."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from model_factory.cli.main import main
from tests.interop.exports import decoder, export, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "r", decoder())


def test_card_has_figures_with_command_and_interval(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["evaluate", "--run", str(run), "--num-samples", "0", "--json"]) == 0
    report = capsys.readouterr().out
    (tmp_path / "figures.json").write_text(report)
    words = ("--format", "hf", "--license", "apache-2.0", "--evaluation", str(tmp_path / "figures.json"))
    code, printed = export(run, tmp_path / "out", capsys, *words)
    assert (code, printed["licence"], printed["notes"]) == (0, "apache-2.0", [])
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "text-generation",
    )
    figures = {one["name"]: one for one in json.loads(report)["figures"]}
    command = json.loads(report)["command"]
    assert command == f"model-factory evaluate --run {run} --num-samples 0 --json"
    results = {one.metric_type: one for one in card.data.eval_results}
    assert results.keys() == figures.keys()
    for name, result in results.items():
        assert result.metric_value == figures[name]["value"]
        assert result.metric_args["command"] == command
        assert result.metric_args["interval"] == [figures[name]["low"], figures[name]["high"]]
    assert command in card.text
    assert "import model_factory.interop.hf" in card.text


def test_licence_is_not_invented(run: Path, tmp_path: Path, capsys: Any) -> None:
    _, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert printed["notes"] == ["the card states no licence: give --license ID"]
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license is None
    assert "**Licence**: not stated." in card.text
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "is no report"), ("[", "is no report"), (None, "cannot be read"), ("other", "is of the run elsewhere")],
    ids=["empty", "broken", "missing", "other-run"],
)
def test_figures_of_something_else_are_refused(
    content: str | None, message: str, run: Path, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "figures.json"
    if content == "other":
        content = json.dumps({"figures": [], "command": "x", "run": "elsewhere"})
    if content is not None:
        file.write_text(content)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf", "--evaluation", str(file))
    assert code == 3
    assert message in printed["errors"][0]["message"]
    assert not (tmp_path / "out").exists()


def test_licence_must_be_an_identifier(run: Path, tmp_path: Path, capsys: Any) -> None:
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf", "--license", "My licence: mine")
    assert code == 1
    assert "apache-2.0" in printed["errors"][0]["message"]
