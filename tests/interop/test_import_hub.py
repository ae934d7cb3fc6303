"""Names on the hub: downloaded once, pinned by commit, found again offline, and an error within seconds otherwise."""

import os
import subprocess
import sys
from pathlib import Path

from tests.data_manager.fake_hub import SHA, fake_hub

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "owner/tiny": {
        "config.json": b'{"model_type": "mdlm"}',
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "model.safetensors": b"weights",
        "modeling_mdlm.py": b"raise SystemExit('executed')",
        "pytorch_model.bin": b"pickle",
    }
}
CODE = """
import sys, time
from model.checkpoints.source import find_source
begin = time.perf_counter()
try:
    found = find_source(sys.argv[1])
    print(found.revision, found.is_pinned, found.licence, *sorted(path.name for path in found.folder.iterdir()))
except ValueError as error:
    print(error)
assert time.perf_counter() - begin < 10
"""


def find(folder: Path, name: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HF_HOME": str(folder),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", CODE, name]
    result = subprocess.run(
        command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_hub_name_is_downloaded_without_code_and_found_offline(tmp_path: Path) -> None:
    files = "README.md config.json model.safetensors"
    with fake_hub(FILES) as (address, asked):
        found = find(tmp_path, "owner/tiny", HF_ENDPOINT=address)
        assert found.strip() == f"{SHA} False apache-2.0 {files}"
        assert not any(name.endswith((".py", ".bin")) for name in asked)
        assert "cannot be downloaded" in find(tmp_path, "owner/other", HF_ENDPOINT=address)
    offline = find(tmp_path, f"owner/tiny@{SHA}", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.strip() == f"{SHA} True apache-2.0 {files}"
    message = find(tmp_path, "owner/other", HF_ENDPOINT="http://127.0.0.1:9")
    assert "neither a folder nor in the hub's cache, and the hub cannot be reached (127.0.0.1" in message
