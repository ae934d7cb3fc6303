"""Resolve plain scalars by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/, section 10.3.2).

`1e-4` is a float, `no` a string, `010` ten; only true and false are bools.
"""

import re

Scalar = str | int | float | bool | None

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")}
_WORDS |= {word: float("nan") for word in (".nan", ".NaN", ".NAN")}

MAX_DIGITS = 400
"""Longest integer that is read; longer ones are refused, since converting them takes quadratic time."""
_TOO_LARGE = 10**MAX_DIGITS


def resolve_scalar(text: str) -> Scalar:
    """Return the value of an unquoted scalar; raises ValueError for an integer of more than MAX_DIGITS digits."""
    if text in _WORDS:
        return _WORDS[text]
    if not (text[0].isdigit() or text[0] in "+-."):
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError(f"an integer of {len(text)} digits")
            value = int(text, base)
            if value >= _TOO_LARGE:
                raise ValueError(
                    f"an integer of more than {MAX_DIGITS} digits"
                )  # hexadecimal text is shorter than the decimal number
            return value
    return float(text) if _FLOAT.fullmatch(text) else text


def is_plain_string(text: str) -> bool:
    """Return True if `text` without quotes would be read as a string (by type only, not syntax)."""
    try:
        return isinstance(resolve_scalar(text), str)
    except ValueError:
        return False
