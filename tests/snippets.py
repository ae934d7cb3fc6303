"""Runs the snippets of a page of documentation as they stand, in the page's order, in a folder of its own.

```yaml title=NAME``` and ```python title=NAME``` write a file; ```python``` runs in one process with the ones before it,
back to the last command; ```bash``` runs in a shell, `exit=N` being the code that it ends with; ```text output``` is what
the snippet before it prints. Blocks marked `no-test` do not run; the reason stands beside the mark.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(?P<kind>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Snippet:
    kind: str
    info: str
    text: str

    @property
    def title(self) -> str | None:
        found = re.search(r"title=(\S+)", self.info)
        return found[1] if found else None

    @property
    def exit_code(self) -> int:
        found = re.search(r"exit=(\d)", self.info)
        return int(found[1]) if found else 0


def snippets(page: str) -> list[Snippet]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Snippet(m["kind"], m["info"].strip(), m["text"]) for m in _BLOCK.finditer(text)]


def link_project(folder: Path) -> None:
    """Put the project into `folder` by links, so that what snippets write stays out of it."""
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists() or path.name in ("configs", "tests"):
            (folder / path.name).symlink_to(path)


class Page:
    """One page's snippets in one folder; `run()` gives how many ran."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.pending: list[str] = []
        self.ran, self.printed = 0, ""
        link_project(folder)

    def run(self) -> int:
        for snippet in snippets(self.page):
            if "no-test" not in snippet.info:
                self.take(snippet)
        self.run_python()
        return self.ran

    def take(self, snippet: Snippet) -> None:
        if snippet.title:
            (self.folder / snippet.title).write_text(snippet.text, encoding="utf-8")
        elif snippet.kind == "python":
            self.pending.append(snippet.text)
        elif snippet.kind == "bash":
            self.run_python()
            self.execute(["bash", "-ec", snippet.text], snippet.exit_code)
        elif snippet.kind == "text" and snippet.info == "output":
            self.run_python()
            assert self.printed == snippet.text, self.page
        else:
            assert snippet.kind == "text", (
                f"{self.page}: a {snippet.kind} block needs title=NAME: {snippet.text[:60]!r}"
            )

    def run_python(self) -> None:
        if self.pending:
            self.execute([sys.executable, "-c", "\n".join(self.pending)], 0, count=len(self.pending))
            self.pending = []

    def execute(self, command: list[str], expected: int, count: int = 1) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expected, f"{self.page}\n{command[-1]}\n{done.stdout}\n{done.stderr}"
        self.ran, self.printed = self.ran + count, done.stdout + done.stderr
