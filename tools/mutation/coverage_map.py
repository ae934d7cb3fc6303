"""Measure once which lines of the mutated files each test covers and how long it takes; cached on disk."""

import ast
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tools.mutation.session import reports, run, silence
from tools.mutation.settings import ROOT

Lines = dict[str, dict[int, list[str]]]
"""Tests that cover each line of each file."""


class CoverageMap:
    """Coverage map: `seconds` of each passing test, and the tests that cover each line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.lines: Lines = defaultdict(lambda: defaultdict(list))
        self.breadth: Counter[str] = Counter()
        """Number of lines that each test covers: a test of fewer lines is more specific."""
        self.failing: list[str] = []

    def measure(self, items: list[pytest.Item], files: list[str]) -> None:
        """Measure the tests of each test file in a separate child, unless they are cached."""
        by_file: dict[Path, list[pytest.Item]] = defaultdict(list)
        for item in items:
            by_file[item.path].append(item)
        sources = hashlib.sha1("".join(statement_lines((ROOT / one).read_text()) for one in files).encode())
        for path, own in by_file.items():
            digest = sources.copy()
            digest.update(path.read_bytes())
            digest.update(",".join(item.nodeid for item in own).encode())
            kept = self.folder / f"{path.stem}-{digest.hexdigest()[:16]}.json"
            if not kept.exists():
                print(f"measuring the coverage of {path.name}", flush=True)
                _in_child(own, files, kept)
            self._add(json.loads(kept.read_text()))

    def tests(self, path: str, first: int, last: int) -> list[str]:
        """List the tests that cover any of these lines of a file."""
        found = {test for line in range(first, last + 1) for test in self.lines[path].get(line, [])}
        return [test for test in found if test in self.seconds]

    def _add(self, known: dict[str, dict[str, dict[str, list[str]]]]) -> None:
        for test, (outcome, seconds) in known["tests"].items():
            if outcome == "passed":
                self.seconds[test] = float(seconds)
            elif outcome == "failed":
                self.failing.append(test)
        for path, lines in known["lines"].items():
            for line, tests in lines.items():
                self.lines[path][int(line)] += tests
                self.breadth.update(tests)


def statement_lines(source: str) -> str:
    """List type and line of each statement: changes within statements hardly change a test's coverage."""
    return str(
        [(type(node).__name__, node.lineno) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    )


def _in_child(items: list[pytest.Item], files: list[str], kept: Path) -> None:
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"the tests of {items[0].path} terminated their process (status {status})")
        return
    code = 1
    try:
        silence()
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(_measure(items, files)))
        code = 0
    finally:
        os._exit(code)


def _measure(items: list[pytest.Item], files: list[str]) -> dict[str, object]:
    from coverage import Coverage

    cover = Coverage(data_file=None, include=[str(ROOT / one) for one in files], config_file=False)
    began: list[tuple[str, float]] = []

    def before(item: pytest.Item) -> None:
        cover.switch_context(item.nodeid)
        began.append((item.nodeid, time.process_time()))

    cover.start()
    run([(item, 1000.0) for item in items], before)
    cover.stop()
    ends = [*(when for _, when in began[1:]), time.process_time()]
    spent = {test: end - when for (test, when), end in zip(began, ends, strict=True)}
    data = cover.get_data()
    lines = {}
    for path in files:
        contexts = data.contexts_by_lineno(str(ROOT / path))
        lines[path] = {str(line): [test for test in tests if test] for line, tests in contexts.items()}
    return {"tests": {test: (reports.outcomes.get(test, "failed"), spent[test]) for test in spent}, "lines": lines}
