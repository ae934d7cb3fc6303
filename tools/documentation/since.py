"""Version in which each key was added: read from `since.txt`; a new key gets the current version."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tools" / "documentation" / "since.txt"


def current_version() -> str:
    """Read the version from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def key_versions(keys: Iterable[str]) -> dict[str, str]:
    """Map each `Type.key`, in order, to its recorded version, else to the current one."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    kept = dict(line.split() for line in lines)
    now = current_version()
    return {key: kept.get(key, now) for key in keys}


def format_versions(since: dict[str, str]) -> str:
    """Format the content of `since.txt`, without removed keys."""
    return "".join(f"{key} {version}\n" for key, version in sorted(since.items()))
