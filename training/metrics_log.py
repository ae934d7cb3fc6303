"""`metrics.jsonl`: one JSON object per line, in step order, without repeated steps after a resume."""

import json
from pathlib import Path
from typing import Any

from training.durable import write_text
from yaml_config.json_text import from_json
from yaml_config.schema_version import KEY, SCHEMA_VERSION

_MAX_INTEGER = 2**53


class MetricsLog:
    """Log file of metrics; a line that was cut off when the process was killed is dropped on resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Append one line; raise OSError if the disk is full."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_to_line(entry))

    def read(self) -> list[dict[str, Any]]:
        """Read all complete lines, an empty list without a file."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = from_json(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and type(step := entry.get("step")) is int and 0 <= step < _MAX_INTEGER:
                entries.append({key: value for key, value in entry.items() if key != KEY and _is_plottable(value)})
        return entries

    def drop_after(self, step: int) -> None:
        """Drop the lines after `step`, which will be measured again."""
        if self.path.is_file():
            kept = [entry for entry in self.read() if entry["step"] <= step]
            write_text(self.path, "".join(map(_to_line, kept)))


def _is_plottable(value: object) -> bool:
    """Return False for an integer too large to plot as a float."""
    return type(value) is not int or abs(value) < _MAX_INTEGER


def _to_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry | {KEY: SCHEMA_VERSION}) + "\n"
