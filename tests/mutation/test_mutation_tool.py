"""Mutation testing tool: generated mutants, named faults, reported detection."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mutmut")

from tools.mutation.named import NAMED, insert_fault
from tools.mutation.operators import make_mutants
from tools.mutation.report import interval, read_reasons
from tools.mutation.settings import ROOT, SUITES, list_files

SOURCE = '''"""A module."""
RATE = 0.5
MOST = 1e30


def grown(x: int, device: str = "cpu") -> int:
    """Larger."""
    if x < 0:
        raise ValueError(f"x: got {x}")
    return x + 1
'''


def test_mutants_of_function() -> None:
    found = make_mutants("grown.py", SOURCE)
    counted = {(one.scope, one.before.strip(), one.after) for one in found if one.excluded is None}
    assert counted == {
        ("", "RATE = 0.5", "RATE = None"),
        ("", "0.5", "1.5"),
        ("", "MOST = 1e30", "MOST = None"),
        ("grown", "< 0", "<= 0"),
        ("grown", "0", "1"),
        ("grown", "x + 1", "x - 1"),
        ("grown", "1", "2"),
    }
    assert {one.excluded for one in found} == {None, "text of an error", "device: the same on a CPU", "the same number"}
    assert len({one.key for one in found}) == len(found)


def test_named_faults_match_their_source() -> None:
    assert len({one.name for one in NAMED}) == len(NAMED)
    for fault in NAMED:
        source, line = insert_fault(fault)
        assert fault.after in "\n".join(source.splitlines()[line - 1 : line + 3])
        compile(source, fault.path, "exec")


def test_suites_name_existing_files_and_tests() -> None:
    mutated = [path for suite in SUITES for path in list_files(suite)]
    assert len(set(mutated)) == len(mutated)
    for patterns, tests in SUITES.values():
        assert all(list(ROOT.glob(pattern)) for pattern in patterns)
        assert all((ROOT / test).exists() for test in tests)
    folders = "model_factory/diffusion", "model/attention"
    code = {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert {path for path in code if not path.endswith(("/__init__.py", "/built_in.py"))} <= set(mutated)
    assert {fault.path for fault in NAMED} <= set(mutated)


def test_reasons_for_survivors_name_mutated_lines() -> None:
    """A reason by line number is stale as soon as its line moves: the line must at least hold an expression."""
    lines = {}
    for path in [path for suite in SUITES for path in list_files(suite)]:
        nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        lines[path] = {node.lineno for node in nodes if isinstance(node, ast.expr) and id(node) not in docstrings}
    for entry in read_reasons():
        paths = [path for path in lines if re.fullmatch(entry["path"], path)]
        assert paths, entry
        assert "line" not in entry or any(entry["line"] in lines[path] for path in paths), entry


CHECK = """
import sys
from tools.mutation import named
from tools.mutation.named import Named

oracle = "tests/diffusion/test_oracle_bounds.py::test_5_subs_bound_is_the_entropy"
weight = "self.schedule.rate(t) / torch.expm1(self.schedule.sigma(t))"
harmless = weight.replace("(t) / torch", "(t) * 1.0 / torch")
named.NAMED.append(Named("harmless", "model_factory/diffusion/objectives/losses.py", "Objective.weight", weight, harmless, oracle))
sys.exit(10 * named.check_named("one alpha") + named.check_named("harmless"))
"""


def test_named_fault_is_detected_and_equivalent_change_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("detected   ") == 2
    assert "UNDETECTED  harmless" in done.stdout


def test_wilson_interval() -> None:
    """Newcombe 1998, table I: 81 of 263 are 0.2553 to 0.3662."""
    low, high = interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert interval(10, 10)[1] == pytest.approx(1)


def test_mutation_results_are_stored(tmp_path: Path) -> None:
    from tools.mutation.results import Result, Results

    kept = Results(tmp_path / "results.jsonl")
    kept.add(Result("a", "p.py", "f", 3, "x", "y", "survived", complete=False))
    kept.add(Result("a", "p.py", "f", 3, "x", "y", "killed", "test"))
    again = Results(tmp_path / "results.jsonl").known
    assert again["a"].is_killed
    assert len(again) == 1
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["complete"] is False
