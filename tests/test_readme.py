"""README: every snippet runs unchanged and in order, see `tests/snippets.py`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.snippets import ROOT, Page, snippets


def test_readme_snippets(tmp_path: Path) -> None:
    assert Page("README.md", tmp_path).run() >= 5


def test_readme_starts_with_demo_and_test() -> None:
    first = next(snippet.text for snippet in snippets("README.md") if snippet.kind == "bash")
    assert first.split() == ["scripts/demo", "scripts/test"]
    for name in first.split():
        assert os.access(ROOT / name, os.X_OK)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_scripts_are_valid_bash() -> None:
    for name in ("scripts/setup", "scripts/test", "scripts/demo", "scripts/docs", ".ci/run"):
        assert subprocess.run(["bash", "-n", ROOT / name], check=False).returncode == 0
