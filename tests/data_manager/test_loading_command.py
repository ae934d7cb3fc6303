"""`python -m data_manager.data_manager`: reports, error messages and exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_manager import loading
from data_manager.cache import exclusively, leftovers, used_folders
from data_manager.data_manager import DatasetManager
from data_manager.rows.lengths import Lengths, histogram
from model_factory.cli.data import format_duration, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *options):
    code = main([str(option) for option in options])
    return code, *capsys.readouterr()


def write(text, name="x.yml"):
    Path(name).write_text(f"datasets:\n{text}")
    return name


def test_report_of_text_data_set(here, capsys):
    (here / "a.txt").write_text("abc\n\nab\n" * 10)
    path = write(
        "  - {name: tiny, source: text, data_files: {train: a.txt}, documents: line, rows: packed, sequence_length: 16}\n"
    )
    code, out, err = run(capsys, "--config", path)
    assert (code, err) == (0, "")
    *lines, cached = out.splitlines()
    assert lines == [
        "tiny: source text, tokenizer characters with 7 ids",
        "  train: 5 rows, 20 documents, 70 tokens",
        "    lengths: 6 to 16, mean 14.0 tokens  ▂              █",
        f"    note: train: 10 skipped: empty line ({here}/a.txt:2, 5, 8, 11, 14, ...)",
        "    1. 'abc | ab | abc | ab | ab'",
        "    2. 'ab | abc | ab | abc | ab'",
        "    3. 'bc | ab'",
    ]
    assert cached.startswith("    cached in manifests/tiny/train-")
    assert Path(cached.split()[-1], "rows.arrow").is_file()
    assert "bytes with 259 ids" in run(capsys, "--config", path, "--set", "datasets.0.tokenizer.type=bytes")[1]


def test_report_hints_at_documents_in_one_file(here, capsys):
    (here / "a.txt").write_text("abc\n\nab\n" * 10)
    path = write("  - {name: tiny, source: text, data_files: {train: a.txt}, sequence_length: 16}\n")
    hint = "    note: the whole file is one document; documents: paragraph or documents: line divides it\n"
    assert hint in run(capsys, "--config", path)[1]
    for more in ("documents=file", "documents=line", "sequence_length=1000"):
        assert hint not in run(capsys, "--config", path, "--set", f"datasets.0.{more}")[1]


def test_json_report_of_text_pairs(here, capsys):
    (here / "a.en").write_text("one\ntwo\n")
    (here / "a.de").write_text("eins\nzwei\n")
    path = write("  - {name: tiny, source: text, data_files: {train: {source: a.en, target: a.de}}}\n")
    code, out, err = run(capsys, "--config", path, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["ok"], found["errors"]) == (True, [])
    (dataset,) = found["datasets"]
    (split,) = dataset["splits"]
    assert (dataset["tokenizer"], dataset["vocabulary"]) == ("characters", 12)
    assert (split["kind"], split["size"], split["documents"], split["tokens"]) == ("pairs", 2, 2, 22)
    assert split["examples"] == [["one", "eins"], ["two", "zwei"]]
    assert split["lengths"]["target_ids"] == {"least": 6, "mean": 6, "most": 6, "counts": [2]}


def test_loading_exit_codes(here, capsys):
    assert run(capsys, "--config", "none.yml")[0] == 3
    code, out, err = run(capsys, "--config", write("  - {name: tiny, source: txt}\n"))
    assert (code, out) == (1, "")
    assert "did you mean 'text'" in err
    code, out, err = run(capsys, "--config", "x.yml", "--json")
    assert (code, err, json.loads(out)["errors"][0]["line"]) == (1, "", 2)
    path = write("  - {name: docs, source: embedded}\n  - {name: tiny, source: text, data_files: {train: no.txt}}\n")
    code, out, err = run(capsys, "--config", path)
    assert code == 4
    assert "'no.txt' is not there" in err
    assert out.startswith("docs: source embedded")
    assert run(capsys, "--config", path, "--only", "docs")[0] == 0
    assert "unknown data set 'doc'" in run(capsys, "--config", path, "--only", "doc")[2]
    with pytest.raises(SystemExit) as caught:
        run(capsys)
    assert caught.value.code == 2


def test_module_with_ascii_stdout(here):
    path = write("  - {name: docs, source: embedded}\n")
    command = [sys.executable, "-m", "data_manager.data_manager", "--config", str(here / path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "validation" in done.stdout
    assert "#" in done.stdout


def test_stale_cache_is_reported_and_pruned(here, capsys):
    (here / "a.txt").write_text("one text\n" * 500)
    path = write("  - {name: tiny, source: text, data_files: {train: a.txt}}\n  - {name: docs, source: embedded}\n")
    assert "not used by" not in run(capsys, "--config", path)[1]
    folder = here / "manifests" / "tiny"
    first = {place.name for place in folder.iterdir() if place.is_dir() and place.name != ".hashes"}
    (folder / ".train-0.partial").mkdir()  # left by a killed preparation
    (folder / ".train-0.partial" / "rows.arrow").write_bytes(bytes(2_000_000))
    (folder / "notes").mkdir()  # a folder of the user
    used_folders.clear()  # as in a new process
    bytewise = "--config", path, "--set", "datasets.0.tokenizer.type=bytes"
    code, out, _ = run(capsys, *bytewise)
    assert code == 0
    assert re.search(
        r"^manifests/tiny: 3 cached folders not used by this file, 2\.0 MB \(.*\); --prune removes", out, re.M
    )
    (unused,) = json.loads(run(capsys, *bytewise, "--json")[1])["unused"]
    assert set(unused["names"]) == first | {".train-0.partial"}
    assert unused["bytes"] > 2_000_000
    assert "3 cached folders not used by this file" in run(capsys, *bytewise, "--prune")[1]
    (kept,) = (place.name for place in folder.iterdir() if place.is_dir() and place.name not in (".hashes", "notes"))
    assert kept.startswith("train-")
    assert kept not in first
    assert (folder / "notes").is_dir()
    assert "not used by" not in run(capsys, *bytewise)[1]
    with pytest.raises(SystemExit):
        run(capsys, *bytewise, "--prune", "--only", "tiny")


def test_stale_cache_ignores_folder_locked_by_process(tmp_path):
    with exclusively(tmp_path / ".train-0.lock"):
        (tmp_path / ".train-0.partial").mkdir()
        code = "import sys; from pathlib import Path; from data_manager.cache import leftovers; "
        command = [sys.executable, "-c", f"{code}print(leftovers(Path(sys.argv[1])))", str(tmp_path)]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "None\n"
    assert leftovers(tmp_path).names == (".train-0.partial",)


def test_interrupted_loading_exits_with_130(here, capsys, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupted)
    code, out, err = run(capsys, "--config", write("  - {name: docs, source: embedded}\n"))
    assert (code, out) == (130, "")
    assert err.strip().startswith("interrupted")


def test_durations_in_largest_fitting_unit():
    assert [format_duration(seconds) for seconds in (0.4, 11.66, 59.9, 60, 3599, 3600, 3_459_240)] == [
        *("0.4 seconds", "11.7 seconds", "59.9 seconds", "1.0 minutes", "60.0 minutes", "1.0 hours", "960.9 hours")
    ]


def test_list_sources_and_corpora(capsys):
    code, out, _ = run(capsys, "--list")
    assert code == 0
    lines = {line[:23].strip(): line[23:].strip() for line in out.splitlines()}
    assert lines["source: smiles"].startswith("Molecules as SMILES")
    assert lines["timit"].endswith("(downloaded if missing)")
    assert set(DatasetManager.list_available_datasets()) < set(lines)
    assert all(len(line) > 10 for line in lines.values())
    assert json.loads(run(capsys, "--list", "--json")[1]) == DatasetManager.describe_available_datasets()


def test_length_histograms():
    assert histogram([0, 1, 50, 100]) == " ▁▄█"
    assert histogram([0, 1, 50, 100], plain=True) == " .=#"
    assert Lengths.of([]) is None
    assert Lengths.of([3, 3]).text("tokens") == "all 3 tokens"
    assert Lengths.of([1.0, 2.5]).text("s", 1).startswith("1.0 to 2.5, mean 1.8 s  █")
