"""push and pull against a hub on the loopback interface, and without any network."""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model_factory.cli.main import main
from tests.interop.loopback_hub import SHA, hub
from tests.interop.published import write_folder

FILES = {"config.json": b"{}", "README.md": b"# x\n", "evil.py": b"print(1)\n", "pytorch_model.bin": b"\x80"}


def run_verb(folder: Path, url: str, *words: str) -> dict[str, Any]:
    """Run a verb in another process, as the hub's library reads its settings at import; return what it printed."""
    settings = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    environment = {**os.environ, **settings, "HF_TOKEN": "hf_test", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "model_factory", *words, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {"code": done.returncode, **json.loads(done.stdout)}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in ("config.json", "README.md", "rows.json", "environment.json", ".hidden"):
        (folder / name).write_text("{}\n")
    (folder / "link.json").symlink_to(folder / "config.json")
    return folder


def test_push_says_what_it_would_send(exported: Path, capsys: Any) -> None:
    assert main(["push", "--folder", str(exported), "--to", "owner/name"]) == 0
    printed = capsys.readouterr().out
    assert "private" in printed
    assert "config.json  3 bytes" in printed
    assert "left out, as they hold paths, host names or texts: environment.json, rows.json" in printed
    assert "nothing was sent" in printed
    assert "hidden" not in printed
    assert "link.json" not in printed


def test_push_sends_one_commit_to_a_private_repository(exported: Path, tmp_path: Path) -> None:
    with hub({}) as server:
        words = ("push", "--folder", str(exported), "--to", "owner/name", "--yes", "--include", "rows.json")
        found = run_verb(tmp_path, server.url, *words)
    assert (found["code"], found["commit"]) == (0, SHA)
    assert server.created[0]["visibility"] == "private"
    (commit,) = server.commits
    sent = {line["value"]["path"]: line["value"]["content"] for line in commit if line["key"] == "file"}
    assert sorted(sent) == ["README.md", "config.json", "rows.json"]
    assert base64.b64decode(sent["config.json"]) == b"{}\n"


@pytest.mark.parametrize("revision", ["", f"@{SHA}"], ids=["newest", "pinned"])
def test_pull_takes_one_commit_and_no_code(revision: str, tmp_path: Path) -> None:
    with hub(FILES) as server:
        found = run_verb(
            tmp_path, server.url, "pull", "--from", f"owner/name{revision}", "--output", str(tmp_path / "out")
        )
    assert (found["code"], found["revision"]) == (0, SHA)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "pulled.json"]
    assert json.loads((tmp_path / "out" / "pulled.json").read_text()) == {"from": "owner/name", "revision": SHA}
    assert bool(found["notes"]) is (revision == "")
    assert all(f"/{SHA}/" in path for path in server.seen if "/resolve/" in path)


@pytest.mark.parametrize("revision", ["", f"@{SHA}"], ids=["newest", "pinned"])
def test_import_of_a_hub_name_keeps_its_commit(revision: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "published", "mdlm")
    files = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
    with hub(files) as server:
        words = ("import", "--from", f"owner/name{revision}", "--output", str(tmp_path / "run"))
        found = run_verb(tmp_path, server.url, *words)
    assert found["code"] == 0, found
    assert json.loads((tmp_path / "run" / "imported.json").read_text())["revision"] == SHA
    assert any(f"pin it: owner/name@{SHA}" in note for note in found["notes"]) is (revision == "")


def test_verbs_without_a_network_fail_at_once(exported: Path, tmp_path: Path, capsys: Any) -> None:
    start = time.perf_counter()
    assert main(["push", "--folder", str(exported), "--to", "owner/name", "--yes"]) == 4
    assert main(["pull", "--from", "owner/name", "--output", str(tmp_path / "out")]) == 4
    assert time.perf_counter() - start < 4
    printed = capsys.readouterr().err
    assert printed.count("the hub cannot be reached") == 2


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("push", "--folder", "{0}", "--to", "name"), "write owner/name", 1),
        (("push", "--folder", "{0}/none", "--to", "owner/name"), "is not a folder", 3),
        (("pull", "--from", "../x", "--output", "out"), "write owner/name", 1),
        (("pull", "--from", "owner/name", "--output", "{0}"), "is not empty", 2),
    ],
    ids=["name", "folder", "source", "output"],
)
def test_wrong_requests_are_refused(
    words: tuple[str, ...], message: str, code: int, exported: Path, capsys: Any
) -> None:
    assert main([word.format(exported) for word in words]) == code
    assert message in capsys.readouterr().err
