"""Write plain data as YAML text that parsers of YAML 1.1 and 1.2 read as the same data."""

import json
import re
from typing import Any

from model_factory.yaml_config.scalars import is_plain_string

_SAFE = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_WORDS_OF_1_1 = {"yes", "no", "on", "off", "y", "n", "true", "false", "null"}


def dump_scalar(value: Any) -> str:
    """Return a scalar as YAML, quoted if a parser might read it as another type."""
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return _float(value)
    text = str(value)
    safe = _SAFE.fullmatch(text) and text.lower() not in _WORDS_OF_1_1 and is_plain_string(text)
    return text if safe else '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    names = {"\n": "\\n", "\t": "\\t"}
    return names.get(character) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _float(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    text = repr(value)
    mantissa, letter, exponent = text.partition("e")
    if letter and "." not in mantissa:
        text = f"{mantissa}.0e{exponent}"
    return text if not letter or exponent[0] in "+-" else text.replace("e", "e+")


def dump(data: Any) -> str:
    """Return a mapping, list or scalar as block YAML with a final newline."""
    return "\n".join(_lines(data, 0)) + "\n"


def _lines(data: Any, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(data, dict) and data:
        lines = []
        for key, value in data.items():
            lines += _entry(f"{indent}{dump_scalar(key)}:", value, depth + 1)
        return lines
    if isinstance(data, list) and data:
        lines = []
        for value in data:
            inner = _lines(value, depth + 1)
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]]
        return lines
    return [indent + ("{}" if isinstance(data, dict) else "[]" if isinstance(data, list) else dump_scalar(data))]


def _entry(head: str, value: Any, depth: int) -> list[str]:
    if isinstance(value, dict | list) and value:
        return [head, *_lines(value, depth)]
    return [f"{head} {_lines(value, 0)[0]}"]
