"""Values that mutators insert: extremes of every type, and raw YAML scalars."""

import random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 255, 256, 257, 65_537, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**18, 10**30, -(10**30)),
    *(10**308, 10**309, 10**398, -(10**398), 0.0, -0.0, 0.5, 1.0, 1.5, -0.1, 1e-45, 5e-324, 1e-12, 1e16, 1e22, 1e300),
    *(1.7976931348623157e308, float("inf"), float("-inf"), float("nan")),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "x", "no", "yes", "null", "~", "true", "1e-4", "010", "0x10", "1_000", "12:30", "2001-01-01", "-", "?"),
    *(
        "../../gone/passwd",
        "/",
        ".",
        "..",
        "~/x",
        "a/b",
        "a\\b",
        "C:\\x",
        "a\nb",
        "a\tb",
        "a\rb",
        "\x1b[31mred",
        "\x07",
    ),
    *("ü", "日本", "\u200b", "\u202e", "\ufeff", "\u2028", "\x85", "\U0001f600", "e\u0301", "\x00", "'", '"', "{", "}"),
    *(
        "{a}",
        "{a",
        "{a.b}",
        "{}",
        "{{}}",
        "%s",
        "%",
        "#",
        "# x",
        ": ",
        "a: b",
        "- a",
        "<<",
        "*a",
        "&a",
        "!!str",
        "|",
        ">",
    ),
    *("x" * 300, "x" * 5000, "9" * 300, "9" * 5000, "." * 500, "cpu", "cuda", "cuda:99", "auto", "float16", "linear"),
)
RAW: tuple[str, ...] = (
    *(
        "1e309",
        "-1e309",
        ".inf",
        "-.inf",
        ".nan",
        "+.INF",
        "0o17",
        "0x1F",
        "+1",
        "1.",
        ".5",
        "1e-400",
        "1E+5",
        "0x",
        "0o",
    ),
    *("9" * 399, "9" * 401, "9" * 5000, "1e" + "9" * 300, "0." + "1" * 3000, "-" + "0" * 390, "0x" + "f" * 390),
    *(
        "!!str 1",
        "!!int x",
        "!!int 1.5",
        "!!float abc",
        "!!float 1_0",
        "!!bool yes",
        "!!null x",
        "!!binary aGk=",
        "!x y",
    ),
    *(
        "!!set {a}",
        "!!python/name:os.system",
        "! 1",
        "!!int '7'",
        "!!float inf",
        "!!float 0x1p3",
        "!!int 1e3",
        "!<x> y",
    ),
    *("!!timestamp 2001-01-01", "!!int ''", "!!map x", "!!seq {}", "!!str {}", "*nowhere", "&a", "&a x", "[", "{", "]"),
    *("'", '"', '"\\q"', '"\\x"', '"\\ud800"', '"\\0"', '"\\e[1m"', '"a\\\n b"', "|", ">-", "|9", "| x", "@", "`", "%"),
    *("? a", "? [a]", "[a, b", "{a: 1, a: 2}", "{[a]: 1}", "{1: 2}", "{? a}", "[[[[[[[[]]]]]]]]", "[" * 70 + "]" * 70),
    *("{<<: {a: 1}}", "{<<: 1}", "{<<: [{a: 1}, 2]}", "{'<<': 1}", "&b [*b]", "&c {c: *c}", "- a", "a: b: c", "--- x"),
)


def random_scalar(rng: random.Random) -> Any:
    """Draw a number, text, bool or None."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(NUMBERS)
    if kind < 0.8:
        return rng.choice(TEXTS)
    return rng.choice((None, True, False))


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """Draw a scalar, or a list or mapping of random values."""
    kind = rng.random()
    if kind < 0.75 or depth > 2:
        return random_scalar(rng)
    size = rng.choice((0, 1, 2, 3, 20) if depth == 0 else (0, 1, 2))
    if kind < 0.88:
        return [random_value(rng, depth + 1) for _ in range(size)]
    return {str(random_scalar(rng)): random_value(rng, depth + 1) for _ in range(size)}
