"""What became of each mutant, kept on disk, so that a run goes on where it stopped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.settings import BUDGET


@dataclass(frozen=True)
class Result:
    """The end of one mutant: `state` is killed, timeout, survived or unpatched; `complete` where every test that runs
    its lines was tried, and not the cheap ones alone."""

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
    """Fingerprint of the tests that let it pass; with others it is tried again."""
    budget: float = BUDGET
    """Seconds of tests that it was given."""

    @property
    def is_killed(self) -> bool:
        """Whether a test failed, or ran without end."""
        return self.state in ("killed", "timeout")


class Results:
    """Results by the key of their mutant, one line of JSON each; the newest counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {one.key: one for one in (Result(**json.loads(line)) for line in lines)}

    def add(self, result: Result) -> None:
        """Keep a result."""
        self.known[result.key] = result
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
