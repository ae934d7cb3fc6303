"""Fuzz the config check with mutated packaged configs, hypothesis trees, and options."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzzing.cases import KINDS, Case, CaseInput, cases
from tools.fuzzing.limits import Limits
from tools.fuzzing.option_mutators import random_options
from tools.fuzzing.oracle import GOOD, INVALID, Verdict, judge_case, judge_input
from tools.fuzzing.packaged_configs import config_names, config_tree, schemas_by_key, values_by_key
from tools.fuzzing.report import format_table
from tools.fuzzing.tree_mutators import to_yaml

LIMITS = Limits(of_processor=True)
"""CPU time, because the test machine may be busy."""
RUNS = 2000


@pytest.mark.parametrize("config", config_names())
def test_fuzzed_configs_accepted_or_rejected_with_position(config: str, tmp_path: Path) -> None:
    chosen = [case for case in cases(RUNS, seed=0) if case.config == config]
    assert len(chosen) in (RUNS // len(config_names()), RUNS // len(config_names()) + 1)
    verdicts = [judge_case(case, tmp_path, LIMITS) for case in chosen]
    assert [f"{found.name}: {found.complaint}" for found in verdicts if found.complaint] == []
    assert {INVALID} <= {found.code for found in verdicts}


def test_fuzzed_config_case_is_reproducible() -> None:
    for kind in KINDS:
        case = Case("configs/latent/dmlp.yml", kind, 17)
        assert Case.parse(str(case)) == case
        assert case.build() == Case.parse(str(case)).build()
        assert case.build() != Case(case.config, kind, 18).build()
    with pytest.raises(ValueError, match="is not a case"):
        Case.parse("configs/latent/dmlp.yml:nothing:1")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=8,
)
keys = st.sampled_from(sorted(schemas_by_key())) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
known = st.sampled_from(sorted(values_by_key())).flatmap(lambda key: st.sampled_from(values_by_key()[key]))
mappings = st.recursive(
    st.dictionaries(keys, values | known, max_size=4),
    lambda inner: st.dictionaries(keys, inner | st.lists(inner, max_size=3), max_size=4),
    max_leaves=6,
)
sections = st.fixed_dictionaries(
    {},
    optional={
        "model": mappings | values,
        "global_config": mappings | values,
        "datasets": st.lists(mappings, max_size=4) | values,
        "training": mappings | values,
        "generation": mappings | values,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sections)
def test_fuzzed_trees_accepted_or_rejected_with_position(tmp_path: Path, tree: dict) -> None:
    made = CaseInput({"case.yml": to_yaml(tree)}, ("--config", "case.yml"), "utf-8")
    assert judge_input("a tree", made, tmp_path, LIMITS).complaint is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(config_names()), st.randoms(use_true_random=False), st.text(max_size=40))
def test_fuzzed_options_accepted_or_rejected_with_position(
    tmp_path: Path, name: str, rng: random.Random, text: str
) -> None:
    found = [*random_options(config_tree(name), rng), text.replace("\x00", "")]
    made = CaseInput(
        {"case.yml": to_yaml(config_tree(name))},
        ("--config", "case.yml", *(f"--set={option}" for option in found)),
        "utf-8",
    )
    assert judge_input("options", made, tmp_path, LIMITS).complaint is None


BROKEN = {
    "it raises": ("raise RuntimeError('x')", "RuntimeError instead of a message"),
    "no position": ("sys.stderr.write('it is wrong\\n1 problem\\n'); return 1", "no position"),
    "no line": ("sys.stderr.write('case.yml: wrong\\n1 problem\\n'); return 1", "no line and column"),
    "another file": ("sys.stderr.write('other.yml:1:1: wrong\\n1 problem\\n'); return 1", "not a file of the case"),
    "two lines": ("sys.stderr.write('case.yml:1:1: a\\nb: c\\n1 problem\\n'); return 1", "2 headlines, and 1 problems"),
    "a traceback": ("sys.stderr.write('Traceback (most recent call last)\\n'); return 4", "a traceback was printed"),
    "another code": ("sys.stderr.write('case.yml:1:1: a\\n1 problem\\n'); return 4", "exit code 4"),
    "a hang": ("\n    while True: pass", "timeout: still running"),
    "much memory": ("bytearray(400 << 20)[::4096] = b'x' * 102400; return 0", "MemoryError"),
    "not in this encoding": ("print('ü'); return 0", "UnicodeEncodeError"),
    "a note without a position": ("sys.stderr.write('note: case.yml: gone\\n'); return 0", "no line and column"),
    "accepted with problems": ("sys.stderr.write('case.yml:1:1: a\\n1 problem\\n'); return 0", "accepted, but printed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_fuzzing_oracle_detects(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, complaint = BROKEN[name]
    scope: dict = {}
    exec(f"import sys\ndef main(argv):\n    {body}\n", scope)
    monkeypatch.setattr("tools.fuzzing.oracle.main", scope["main"])
    made = CaseInput({"case.yml": b"training: {max_steps: 3}\n"}, ("--config", "case.yml"), "ascii")
    found = judge_input("broken", made, tmp_path, Limits(0.3, 300))
    assert complaint in (found.complaint or "")


def test_fuzzing_oracle_detects_changed_equivalent_config(tmp_path: Path) -> None:
    other = b"training: {max_steps: 3}\n"
    made = CaseInput({"case.yml": other}, ("--config", "case.yml"), "utf-8", same_as="configs/encoder_model.yml")
    assert "changed the config" in (judge_input("x", made, tmp_path, LIMITS).complaint or "")
    made = CaseInput({"case.yml": b"x"}, ("--config", "case.yml"), "utf-8", same_as="configs/encoder_model.yml")
    assert "was rejected" in (judge_input("x", made, tmp_path, LIMITS).complaint or "")


def test_fuzzing_report_table() -> None:
    verdicts = [
        Verdict("a", "text", GOOD, 0.1, 3.0),
        Verdict("b", "text", INVALID, 0.25, 1.0),
        Verdict("c", "tree", None, 2.0, 0.0, "it hangs"),
    ]
    assert [line.split() for line in format_table(verdicts).splitlines()[2:]] == [
        ["text", "2", "1", "1", "0", "0.25", "s", "3", "MB"],
        ["tree", "1", "0", "0", "1", "2.00", "s", "0", "MB"],
        ["all", "3", "1", "1", "1", "2.00", "s", "3", "MB"],
    ]
