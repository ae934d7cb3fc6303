"""Every snippet of the README runs as it stands, in the order of the page, in a folder of its own.

```yaml title=NAME``` writes a file, ```python``` runs in one process with what came before, ```bash``` in a
shell, except in blocks marked `no-test`, whose reason stands beside them; ```text output``` is what the command before it
prints.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(?P<kind>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^```", re.M | re.S)
LINKED = ("parse_args.py", "configs", "model", "data_manager", "experiment", "training", "yaml_config", "tests")


def blocks(page: str) -> list[tuple[str, str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(m["kind"], m["info"].strip(), m["text"]) for m in BLOCK.finditer(text)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the project in it by links, so that what snippets write stays out of the project."""
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_snippets_of_the_readme(clone: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    ran, printed = 0, ""
    for kind, info, text in blocks("README.md"):
        if "no-test" in info:
            continue
        if kind == "yaml":
            title = re.search(r"title=(\S+)", info)
            assert title, f"a yaml block needs title=NAME: {text[:60]!r}"
            (clone / title[1]).write_text(text, encoding="utf-8")
            continue
        if kind == "text" and info == "output":
            assert printed == text
        if kind == "python":
            command = [sys.executable, "-c", text]
        elif kind == "bash":
            command = ["bash", "-ec", text]
        else:
            continue
        expected = int(match[1]) if (match := re.search(r"exit=(\d)", info)) else 0
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expected, f"{text}\n{done.stdout}\n{done.stderr}"
        ran, printed = ran + 1, done.stdout + done.stderr
    assert ran >= 5


def test_the_two_commands_come_first() -> None:
    first = next(text for kind, _, text in blocks("README.md") if kind == "bash")
    assert first.split() == ["scripts/demo", "scripts/test"]
    for name in first.split():
        assert os.access(ROOT / name, os.X_OK)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_scripts_are_good_bash() -> None:
    for name in ("scripts/setup", "scripts/test", "scripts/demo", ".ci/run"):
        assert subprocess.run(["bash", "-n", ROOT / name], check=False).returncode == 0
