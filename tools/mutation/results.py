"""Store the outcome of each mutant on disk, so that a run resumes where it stopped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.mutation.settings import BUDGET


@dataclass(frozen=True)
class Result:
    """Outcome of one mutant: `state` is killed, timeout, survived or unpatched; `complete` is True if every test that
    covers its lines was run, not only the cheap ones."""

    key: str
    path: str
    scope: str
    line: int
    before: str
    after: str
    state: str
    test: str = ""
    complete: bool = True
    tests: str = ""
    """Fingerprint of the tests that it survived; if they change, it is run again."""
    budget: float = BUDGET
    """Time limit for its tests in seconds."""

    @property
    def is_killed(self) -> bool:
        """Return True if a test failed or timed out."""
        return self.state in ("killed", "timeout")


class Results:
    """Results by mutant key, one line of JSON each; the last one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {one.key: one for one in (Result(**json.loads(line)) for line in lines)}

    def add(self, result: Result) -> None:
        """Store a result."""
        self.known[result.key] = result
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
