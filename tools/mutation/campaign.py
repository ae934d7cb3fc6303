"""Run the mutants of files against the tests of their suite."""

import hashlib
import inspect
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tools.mutation.coverage_map import CoverageMap
from tools.mutation.operators import Mutant, make_mutants
from tools.mutation.patching import Functions, apply_mutant, live_functions
from tools.mutation.report import find_reason, read_reasons
from tools.mutation.results import Result, Results
from tools.mutation.session import Child, start, wait_for_children
from tools.mutation.settings import BUDGET, LIMIT, ROOT, SLOW, list_files


@dataclass(frozen=True)
class Options:
    """Options of a campaign: files of the suite, parallel children, and `thorough` to skip no test.

    `sample` limits the mutants per file, ordered by digest, which is as good as random. `budget` is the time in seconds
    for the tests of a mutant, cheap ones first; survivors tested for less, and without a reason, are run again.
    """

    suite: str
    files: list[str]
    jobs: int = 1
    thorough: bool = False
    minutes: float = 1e9
    sample: int = 0
    budget: float = BUDGET
    folder: Path = ROOT / ".mutation"


@dataclass
class Campaign:
    """Run over the mutants of a suite."""

    options: Options
    results: Results
    kills: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Number of kills per test for each file and function: tests that killed a neighbour run first."""
    texts: dict[str, str] = field(default_factory=dict)
    """Source code of tests."""

    def work(self, items: list[pytest.Item]) -> None:
        """Run all mutants without a result."""
        options = self.options
        self.items = {item.nodeid: item for item in items}
        self.coverage = CoverageMap(options.folder / "coverage")
        self.coverage.measure(items, list_files(options.suite))
        if self.coverage.failing:
            print("skipped, because they fail without a fault:", *self.coverage.failing, sep="\n    ")
        self.reasons = read_reasons()
        self.tests_fingerprint = fingerprint(sorted({item.path for item in items}))
        self.functions: Functions = live_functions(options.files)
        running: dict[int, tuple[Child, Mutant, bool]] = {}
        began = time.monotonic()
        for one in self.results.known.values():
            if one.test:
                self._count(one.path, one.scope, one.test)
        waiting = self._waiting()
        mutant = next(waiting, None)
        while running or mutant is not None:
            while mutant is not None and len(running) < options.jobs:
                child, complete = self._start(mutant)
                running[child.pid] = child, mutant, complete
                is_over = time.monotonic() - began > options.minutes * 60
                mutant = None if is_over else next(waiting, None)
            for child, state, test in wait_for_children([child for child, *_ in running.values()]):
                _, done, complete = running.pop(child.pid)
                self._record(done, state, test, complete)

    def _waiting(self) -> Iterator[Mutant]:
        for path in self.options.files:
            found = sample_mutants([one for one in make_mutants(path) if one.excluded is None], self.options.sample)
            todo = [one for one in found if self._is_open(one)]
            began = time.monotonic()
            yield from todo
            if todo:
                killed = sum(
                    1 for one in found if one.key in self.results.known and self.results.known[one.key].is_killed
                )
                print(
                    f"{path}: {killed} of {len(found)} killed, {time.monotonic() - began:.0f} s for {len(todo)}",
                    flush=True,
                )

    def _is_open(self, mutant: Mutant) -> bool:
        known = self.results.known.get(mutant.key)
        if known is None:
            return True
        if known.is_killed:
            return False
        if known.tests != self.tests_fingerprint:
            return True
        has_more = self.options.thorough or self.options.budget > known.budget
        reason = find_reason(known, self.reasons)
        return has_more and not known.complete and (reason is None or reason.startswith("open"))

    def select_tests(self, mutant: Mutant) -> tuple[list[str], bool]:
        """Return the ordered tests for a mutant, and True if these are all tests that cover its lines."""
        found = set(self.coverage.tests(mutant.path, *mutant.lines))
        if not found:
            found = set(self.coverage.tests(mutant.path, mutant.first_line, mutant.last_line))
        if not found and "." not in mutant.scope:  # a constant, which no test covers: tests that mention it first
            found = set(self.coverage.seconds)
            name = mutant.source.splitlines()[mutant.lines[0] - 1].split(":")[0].split("=")[0].strip()
            for test in found:
                self.kills[f"{mutant.path}:{mutant.scope}"][test] += name in self._text_of(test)
        near, here = self.kills[f"{mutant.path}:{mutant.scope}"], self.kills[mutant.path]
        cost = {test: self.coverage.seconds[test] + 0.004 for test in found}
        breadth = self.coverage.breadth  # of two equally cheap tests prefer the more specific one
        order = sorted(found, key=lambda test: cost[test] * (1 + breadth[test]) / (1 + 20 * near[test] + here[test]))
        if self.options.thorough:
            return order, True
        longest = max(SLOW, self.options.budget / 3)
        kept, spent = [], 0.0
        for test in order:
            if cost[test] < longest and spent + cost[test] < self.options.budget:
                kept.append(test)
                spent += cost[test]
        return kept, len(kept) == len(order)

    def _text_of(self, test: str) -> str:
        if test not in self.texts:
            self.texts[test] = inspect.getsource(self.items[test].function)  # type: ignore[attr-defined]
        return self.texts[test]

    def _start(self, mutant: Mutant) -> tuple[Child, bool]:
        names, complete = self.select_tests(mutant)
        tests = [(self.items[name], LIMIT + 6 * self.coverage.seconds[name]) for name in names]

        def prepare() -> None:
            apply_mutant(mutant.path, mutant.scope, mutant.source, mutant.line, self.functions)

        return start(prepare, tests), complete

    def _record(self, mutant: Mutant, state: str, test: str, complete: bool) -> None:
        if state == "unpatched" and mutant.scope.count(".") < 1:
            state, test = "killed", "import of the module"
        elif test:
            self._count(mutant.path, mutant.scope, test)
        what = mutant.path, mutant.scope, mutant.line, mutant.before, mutant.after
        tests, budget = "" if test else self.tests_fingerprint, self.options.budget
        self.results.add(Result(mutant.key, *what, state, test, complete, tests, budget))

    def _count(self, path: str, scope: str, test: str) -> None:
        self.kills[f"{path}:{scope}"][test] += 1
        self.kills[path][test] += 1


def sample_mutants(mutants: list[Mutant], count: int) -> list[Mutant]:
    """Return the `count` mutants with the smallest digests, in their order; all for 0."""
    least = sorted(mutants, key=lambda one: one.key)[: count or len(mutants)]
    kept = {one.key for one in least}
    return [one for one in mutants if one.key in kept]


def fingerprint(paths: list[Path]) -> str:
    """Hash the tests and their oracles."""
    whole = hashlib.sha1()
    for path in [*paths, *sorted((ROOT / "tests/oracles").glob("*.py"))]:
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]
