"""Mutated configs against the check: 40 of each shipped config, trees of hypothesis, and options."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.cases import KINDS, Case, Made, cases
from fuzzing.known import config_names, config_tree, parts, properties
from fuzzing.limits import Limits
from fuzzing.option_mutators import options
from fuzzing.oracle import GOOD, INVALID, Verdict, judge, judge_made
from fuzzing.report import table
from fuzzing.tree_mutators import written

LIMITS = Limits(of_processor=True)
"""Other processes do not count: the machine that tests run on may be busy."""
RUNS = 2000


@pytest.mark.parametrize("config", config_names())
def test_mutated_configs_are_good_or_refused_with_places(config: str, tmp_path: Path) -> None:
    chosen = [case for case in cases(RUNS, seed=0) if case.config == config]
    assert len(chosen) == RUNS // len(config_names())
    verdicts = [judge(case, tmp_path, LIMITS) for case in chosen]
    assert [f"{found.name}: {found.complaint}" for found in verdicts if found.complaint] == []
    assert {INVALID} <= {found.code for found in verdicts}


def test_a_case_is_the_same_by_its_name() -> None:
    for kind in KINDS:
        case = Case("configs/latent/dmlp.yml", kind, 17)
        assert Case.named(str(case)) == case
        assert case.made() == Case.named(str(case)).made()
        assert case.made() != Case(case.config, kind, 18).made()
    with pytest.raises(ValueError, match="names no case"):
        Case.named("configs/latent/dmlp.yml:nothing:1")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=8,
)
keys = st.sampled_from(sorted(properties())) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
known = st.sampled_from(sorted(parts())).flatmap(lambda key: st.sampled_from(parts()[key]))
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
def test_any_tree_is_good_or_refused_with_places(tmp_path: Path, tree: dict) -> None:
    made = Made({"case.yml": written(tree)}, ("--config", "case.yml"), "utf-8")
    assert judge_made("a tree", made, tmp_path, LIMITS).complaint is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(config_names()), st.randoms(use_true_random=False), st.text(max_size=40))
def test_any_option_is_good_or_refused_with_places(tmp_path: Path, name: str, rng: random.Random, text: str) -> None:
    found = [*options(config_tree(name), rng), text.replace("\x00", "")]
    made = Made(
        {"case.yml": written(config_tree(name))},
        ("--config", "case.yml", *(f"--set={option}" for option in found)),
        "utf-8",
    )
    assert judge_made("options", made, tmp_path, LIMITS).complaint is None


BROKEN = {
    "it raises": ("raise RuntimeError('x')", "RuntimeError instead of a message"),
    "no place": ("sys.stderr.write('it is wrong\\n1 problem\\n'); return 1", "no place"),
    "no line": ("sys.stderr.write('case.yml: wrong\\n1 problem\\n'); return 1", "no line and column"),
    "another file": ("sys.stderr.write('other.yml:1:1: wrong\\n1 problem\\n'); return 1", "no file of the case"),
    "two lines": ("sys.stderr.write('case.yml:1:1: a\\nb: c\\n1 problem\\n'); return 1", "2 headlines, and 1 problems"),
    "a traceback": ("sys.stderr.write('Traceback (most recent call last)\\n'); return 4", "a traceback was printed"),
    "another code": ("sys.stderr.write('case.yml:1:1: a\\n1 problem\\n'); return 4", "exit code 4"),
    "a hang": ("\n    while True: pass", "it did not end"),
    "much memory": ("bytearray(400 << 20)[::4096] = b'x' * 102400; return 0", "MemoryError"),
    "not on this screen": ("print('ü'); return 0", "UnicodeEncodeError"),
    "a note without a place": ("sys.stderr.write('note: case.yml: gone\\n'); return 0", "no line and column"),
    "good and refused": ("sys.stderr.write('case.yml:1:1: a\\n1 problem\\n'); return 0", "it is good, and printed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_oracle_sees(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, complaint = BROKEN[name]
    scope: dict = {}
    exec(f"import sys\ndef main(argv):\n    {body}\n", scope)
    monkeypatch.setattr("fuzzing.oracle.main", scope["main"])
    made = Made({"case.yml": b"training: {max_steps: 3}\n"}, ("--config", "case.yml"), "ascii")
    found = judge_made("broken", made, tmp_path, Limits(0.3, 300))
    assert complaint in (found.complaint or "")


def test_the_oracle_sees_a_harmless_change_that_is_refused_or_changes_something(tmp_path: Path) -> None:
    other = b"training: {max_steps: 3}\n"
    made = Made({"case.yml": other}, ("--config", "case.yml"), "utf-8", same_as="configs/encoder_model.yml")
    assert "changed the config" in (judge_made("x", made, tmp_path, LIMITS).complaint or "")
    made = Made({"case.yml": b"x"}, ("--config", "case.yml"), "utf-8", same_as="configs/encoder_model.yml")
    assert "was refused" in (judge_made("x", made, tmp_path, LIMITS).complaint or "")


def test_table() -> None:
    verdicts = [
        Verdict("a", "text", GOOD, 0.1, 3.0),
        Verdict("b", "text", INVALID, 0.25, 1.0),
        Verdict("c", "tree", None, 2.0, 0.0, "it hangs"),
    ]
    assert [line.split() for line in table(verdicts).splitlines()[2:]] == [
        ["text", "2", "1", "1", "0", "0.25", "s", "3", "MB"],
        ["tree", "1", "0", "0", "1", "2.00", "s", "0", "MB"],
        ["all", "3", "1", "1", "1", "2.00", "s", "3", "MB"],
    ]
