"""`samples.txt`: samples of the model at each evaluation."""

import re
from collections.abc import Sequence
from pathlib import Path

from training.durable import open_without_links, write_text

_HEAD = re.compile(r"^===== step (\d{1,15}) =====\n", re.M)


class SamplesLog:
    """Log file of samples: a section `===== step N =====` per evaluation, with numbered samples."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, samples: Sequence[str]) -> None:
        """Append a section; raise TrainingError if the file is a link, OSError if the disk is full."""
        numbered = "".join(f"--- {number}\n{text}\n" for number, text in enumerate(samples, 1))
        with open_without_links(self.path, "a", errors="replace") as file:
            file.write(f"===== step {step} =====\n{numbered}\n")

    def last_step(self) -> int | None:
        """Return the step of the last section, None if there is no section."""
        if not self.path.is_file():
            return None
        steps = _HEAD.findall(self.path.read_text(encoding="utf-8", errors="replace"))
        return int(steps[-1]) if steps else None

    def drop_after(self, step: int) -> None:
        """Drop the sections after `step`."""
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        later = [match.start() for match in _HEAD.finditer(text) if int(match[1]) > step]
        if later:
            write_text(self.path, text[: later[0]])
