"""Coverage-guided fuzzer: the check of one input, a short run, and the error without atheris."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzzing.coverage_guided import read_once

ROOT = Path(__file__).resolve().parents[2]
BYTES = st.binary(max_size=60) | st.text("ab:{}[]-&*!|>'\"\\ \n\t#0.e+<", max_size=60).map(str.encode)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BYTES)
def test_reader_returns_data_or_problems_with_position(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.chdir(tmp_path)
        read_once(data)


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed; it is in the extra `fuzz`")
def test_coverage_guided_short_run(tmp_path: Path) -> None:
    done = run("-m", "tools.fuzzing.coverage_guided", "-runs=300", "-seed=1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Done 300 runs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_coverage_guided_without_atheris(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['atheris'] = None; from tools.fuzzing.coverage_guided import main; sys.exit(main())"
    )
    done = run("-c", script, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("atheris is not installed: pip install")
