"""Scalars by the core schema of YAML 1.2."""

import math

import pytest

from model_factory.yaml_config.scalars import is_plain_string, resolve_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("+12", 12),
        ("010", 10),
        ("0o17", 15),
        ("0xfF", 255),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("-.inf", -math.inf),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("tRue", "tRue"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("0b1", "0b1"),
        ("1e", "1e"),
        ("-", "-"),
        (".", "."),
        ("+.inf", math.inf),
        ("cuda:0", "cuda:0"),
    ],
)
def test_value_and_type(text: str, value: object) -> None:
    resolved = resolve_scalar(text)
    assert resolved == value
    assert type(resolved) is type(value)


def test_nan() -> None:
    value = resolve_scalar(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


def test_very_long_integer_is_refused() -> None:
    with pytest.raises(ValueError, match="digits"):
        resolve_scalar("9" * 5000)
    assert not is_plain_string("9" * 5000)
