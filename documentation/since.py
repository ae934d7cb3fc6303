"""Since which version a key is there: `since.txt` keeps what was, and a key that is new gets the version being made."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "documentation" / "since.txt"


def current_version() -> str:
    """The version in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def versions(keys: Iterable[str]) -> dict[str, str]:
    """Version of each `Type.key`, in their order: the one that is kept, else the current one."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    kept = dict(line.split() for line in lines)
    now = current_version()
    return {key: kept.get(key, now) for key in keys}


def kept_text(since: dict[str, str]) -> str:
    """What `since.txt` is to hold; keys that are gone are forgotten."""
    return "".join(f"{key} {version}\n" for key, version in sorted(since.items()))
