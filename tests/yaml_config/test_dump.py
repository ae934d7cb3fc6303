"""Dumped data reads back unchanged, here and with PyYAML's YAML 1.1."""

import math

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from model_factory.yaml_config.compose import compose
from model_factory.yaml_config.dump import dump

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "no",
        "1e-4",
        "010",
        "~",
        "",
        "null",
        "0x1",
        "1_0",
        "2001-01-01",
        "- a",
        "a: b",
        "#",
        "*a",
        "&a",
        "!t",
        "on",
        "=",
        "<<",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = TEXT.filter(lambda key: key != "<<")
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


def same(a: object, b: object) -> bool:
    """Return True if values and types are equal, so that 1, 1.0 and True differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None)
@given(st.dictionaries(KEYS, DATA, min_size=1, max_size=4))
def test_round_trip(data: dict[str, object]) -> None:
    node, problems = compose(dump(data), "dump.yml")
    assert problems == []
    assert same(node.data(), data)


@settings(deadline=None)
@given(st.dictionaries(KEYS, DATA, min_size=1, max_size=4))
def test_yaml_1_1_agrees(data: dict[str, object]) -> None:
    assert same(yaml.safe_load(dump(data)), data)


def test_not_a_number() -> None:
    node, _ = compose(dump({"x": math.nan}), "dump.yml")
    assert math.isnan(node.data()["x"])
