"""Run the snippets of a documentation page unchanged, in order, in a separate folder.

- ```yaml title=NAME``` and ```python title=NAME``` write a file.
- ```python``` runs in one process with the Python snippets since the last command.
- ```bash``` runs in a shell and must exit with `exit=N` (default 0); `python ...` is forked from a process that has
  imported torch (`tests/fork_server.py`).
- ```text output``` is the expected output of the previous snippet.
- ```bash``` marked `no-test`, with a reason, is not run; its commands are parsed (`tests/commands.py`).

A YAML file that no snippet uses is checked at the end.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.commands import check_command, commands
from tests.fork_server import run_in_fork

ROOT = Path(__file__).resolve().parents[1]
SHELL = re.compile(r"[|<>;&$`*]")
"""Characters that need a shell."""
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
    """Link the project into `folder`, so that snippets write nothing into the project."""
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists() or path.name in ("configs", "tests"):
            (folder / path.name).symlink_to(path)


class Page:
    """Runner of a page's snippets in one folder; `run()` returns the number of snippets that ran."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.pending: list[str] = []
        self.files: list[str] = []
        self.ran, self.printed = 0, ""
        link_project(folder)

    def run(self) -> int:
        found = snippets(self.page)
        for snippet in found:
            if "no-test" not in snippet.info:
                self.take(snippet)
        self.run_python()
        code = "\n".join(one.text for one in found if one.kind in ("bash", "python"))
        for name in self.files:
            if name not in code:
                self.run_bash(f"python parse_args.py --config {name}", 0)
        for snippet in found:
            if "no-test" in snippet.info:
                assert snippet.kind == "bash", (
                    f"{self.page}: only commands may be marked no-test: {snippet.text[:60]!r}"
                )
                for words in commands(snippet.text):
                    check_command(words, self.folder)
        return self.ran

    def take(self, snippet: Snippet) -> None:
        if snippet.title:
            (self.folder / snippet.title).write_text(snippet.text, encoding="utf-8")
            self.files += [snippet.title] if snippet.kind == "yaml" else []
        elif snippet.kind == "python":
            self.pending.append(snippet.text)
        elif snippet.kind == "bash":
            self.run_python()
            self.run_bash(snippet.text, snippet.exit_code)
        elif snippet.kind == "text" and snippet.info == "output":
            self.run_python()
            assert self.printed == snippet.text, self.page
        else:
            assert snippet.kind == "text", (
                f"{self.page}: a {snippet.kind} block needs title=NAME: {snippet.text[:60]!r}"
            )

    def run_python(self) -> None:
        if self.pending:
            text = "\n".join(self.pending)
            code, out, error = run_in_fork(["-c", text], self.folder)
            self.done(text, code, 0, out + error, len(self.pending))
            self.pending = []

    def run_bash(self, text: str, expected: int) -> None:
        """Run each command, up to the first that fails."""
        printed = []
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if words[0] == "model-factory":  # the installed command of the package
                words = ["python", "-m", "model_factory.cli.main", *words[1:]]
            plain = words[0] == "python" and not SHELL.search(line)
            code, out, error = run_in_fork(words[1:], self.folder) if plain else self.in_shell(line)
            printed += [out, error]
            if code:
                break
        self.done(text, code, expected, "".join(printed), 1)

    def in_shell(self, line: str) -> tuple[int, str, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["bash", "-ec", line]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def done(self, text: str, code: int, expected: int, printed: str, count: int) -> None:
        assert code == expected, f"{self.page}\n{text}\n{printed}"
        self.ran, self.printed = self.ran + count, printed
