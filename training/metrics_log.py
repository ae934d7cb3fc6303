"""`metrics.jsonl`: one JSON object a line, in the order of the steps, each step once however often a run was killed."""

import json
from pathlib import Path
from typing import Any

from training.durable import write_text
from yaml_config.json_text import from_json
from yaml_config.schema_version import KEY, SCHEMA_VERSION

_MOST = 2**53


class MetricsLog:
    """Appends to a file; a line that a kill cut short is dropped when the run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line; OSError where the disk is full."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; none where there is no file."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = from_json(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and type(step := entry.get("step")) is int and 0 <= step < _MOST:
                entries.append({key: value for key, value in entry.items() if key != KEY and _is_measured(value)})
        return entries

    def keep_until(self, step: int) -> None:
        """Drop what was measured after `step`: it will be measured again."""
        if self.path.is_file():
            kept = [entry for entry in self.read() if entry["step"] <= step]
            write_text(self.path, "".join(map(_line, kept)))


def _is_measured(value: object) -> bool:
    """Whether a value can be drawn: no number has so many digits that it is none to a float."""
    return type(value) is not int or abs(value) < _MOST


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry | {KEY: SCHEMA_VERSION}) + "\n"
