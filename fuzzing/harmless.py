"""Changes of a config that change nothing: it must still be good, and say the same."""

import random
from copy import deepcopy
from typing import Any

from fuzzing.known import at, config_bytes, config_tree, places
from fuzzing.option_mutators import spelt
from yaml_config.dump import dump
from yaml_config.strict_model import Location

Files = dict[str, bytes]


def harmless(name: str, rng: random.Random) -> tuple[Files, list[str]]:
    """Files, `case.yml` first, and `--set` options that come to the same as the shipped config `name`."""
    kind = rng.randrange(4)
    if kind == 0:
        return {"case.yml": _spaced(config_bytes(name), rng)}, []
    if kind == 1:
        return _split(config_tree(name), rng), []
    tree = config_tree(name)
    if kind == 2:
        return {"case.yml": dump(_shuffled(tree, rng)).encode()}, []
    return {"case.yml": config_bytes(name)}, [spelt(tree, path) for path in _scalars(tree, rng)]


def _scalars(tree: Any, rng: random.Random) -> list[Location]:
    """Some places that an option can name: no key on the way has a dot, or is a number in a mapping."""
    found = [path for path in places(tree) if not any("." in str(key) or str(key).isdigit() for key in path)]
    return rng.sample(found, min(3, len(found)))


def _spaced(text: bytes, rng: random.Random) -> bytes:
    """Comments, empty lines, and lines that end as on Windows."""
    lines = []
    for line in text.split(b"\n"):
        is_plain = b"#" not in line and b'"' not in line and b"'" not in line and line.strip()
        lines.append(line + rng.choice((b"", b"  ", b"   # a note: {x")) if is_plain else line)
        lines += rng.choice(([], [], [b""], [b"# --- &a *b"]))
    return rng.choice((b"\n", b"\r\n")).join(lines)


def _shuffled(tree: Any, rng: random.Random) -> Any:
    """Keys of mappings in another order, save the parts of a mixture, which are drawn from in theirs."""
    if isinstance(tree, list):
        return [_shuffled(item, rng) for item in tree]
    if not isinstance(tree, dict):
        return tree
    keys = list(tree)
    if not all(isinstance(item, int | float) for item in tree.values()):
        rng.shuffle(keys)
    return {key: _shuffled(tree[key], rng) for key in keys}


def _split(tree: dict[str, Any], rng: random.Random) -> Files:
    """A base with some values that the config which extends it sets anew."""
    base: dict[str, Any] = deepcopy(tree)
    own: dict[str, Any] = {}
    for key in list(tree):
        if rng.random() < 0.5:
            own[key] = base.pop(key)
    for path in places(deepcopy(base)):
        if len(path) == 2 and isinstance(path[1], str) and rng.random() < 0.3:
            own.setdefault(str(path[0]), {})[path[1]] = at(tree, path)
            at(base, path[:-1])[path[-1]] = 1 if not isinstance(at(tree, path), dict) else {}
    if not base:
        return {"case.yml": dump(tree).encode()}
    return {"case.yml": dump({"extends": "base.yml", **own}).encode(), "base.yml": dump(base).encode()}
