"""Rewrite a config without changing its meaning: it must stay valid and parse to the same values."""

import random
from copy import deepcopy
from typing import Any

from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.strict_model import Location
from tools.fuzzing.option_mutators import format_override
from tools.fuzzing.packaged_configs import config_bytes, config_tree, get_at, iter_paths

Files = dict[str, bytes]


def rewrite_equivalently(name: str, rng: random.Random) -> tuple[Files, list[str]]:
    """Return files, `case.yml` first, and `--set` options that are equivalent to the packaged config `name`."""
    kind = rng.randrange(4)
    if kind == 0:
        return {"case.yml": _add_whitespace(config_bytes(name), rng)}, []
    if kind == 1:
        return _split_into_base(config_tree(name), rng), []
    tree = config_tree(name)
    if kind == 2:
        return {"case.yml": dump(_shuffle_keys(tree, rng)).encode()}, []
    return {"case.yml": config_bytes(name)}, [format_override(tree, path) for path in _sample_paths(tree, rng)]


def _sample_paths(tree: Any, rng: random.Random) -> list[Location]:
    """Choose paths that an option can address: no key in them contains a dot or is a number."""
    found = [path for path in iter_paths(tree) if not any("." in str(key) or str(key).isdigit() for key in path)]
    return rng.sample(found, min(3, len(found)))


def _add_whitespace(text: bytes, rng: random.Random) -> bytes:
    """Add comments and empty lines, and use Windows line endings."""
    lines = []
    for line in text.split(b"\n"):
        is_plain = b"#" not in line and b'"' not in line and b"'" not in line and line.strip()
        lines.append(line + rng.choice((b"", b"  ", b"   # a note: {x")) if is_plain else line)
        lines += rng.choice(([], [], [b""], [b"# --- &a *b"]))
    return rng.choice((b"\n", b"\r\n")).join(lines)


def _shuffle_keys(tree: Any, rng: random.Random) -> Any:
    """Shuffle the keys of mappings, except the parts of a mixture, whose order matters."""
    if isinstance(tree, list):
        return [_shuffle_keys(item, rng) for item in tree]
    if not isinstance(tree, dict):
        return tree
    keys = list(tree)
    if not all(isinstance(item, int | float) for item in tree.values()):
        rng.shuffle(keys)
    return {key: _shuffle_keys(tree[key], rng) for key in keys}


def _split_into_base(tree: dict[str, Any], rng: random.Random) -> Files:
    """Split into a base and a config that extends it and overrides some values."""
    base: dict[str, Any] = deepcopy(tree)
    own: dict[str, Any] = {}
    for key in list(tree):
        if rng.random() < 0.5:
            own[key] = base.pop(key)
    for path in iter_paths(deepcopy(base)):
        if len(path) == 2 and isinstance(path[1], str) and rng.random() < 0.3:
            own.setdefault(str(path[0]), {})[path[1]] = get_at(tree, path)
            get_at(base, path[:-1])[path[-1]] = 1 if not isinstance(get_at(tree, path), dict) else {}
    if not base:
        return {"case.yml": dump(tree).encode()}
    return {"case.yml": dump({"extends": "base.yml", **own}).encode(), "base.yml": dump(base).encode()}
