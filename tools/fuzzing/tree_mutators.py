"""Mutators of a config's data tree, which change it in place; the result is to_yaml as YAML."""

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.strict_model import Location
from tools.fuzzing.packaged_configs import get_at, iter_paths, sample_schema, schemas_by_key, values_by_key
from tools.fuzzing.values import RAW, random_value

Tree = dict[str, Any]
Mutator = Callable[[Tree, random.Random], None]
_RAW = "RAWSCALAR{}X"
"""Placeholder in the tree for a scalar of RAW, replaced in the text."""


def _random_path(tree: Tree, rng: random.Random) -> Location:
    found = list(iter_paths(tree))
    return rng.choice(found) if found else ()


def _put(tree: Tree, path: Location, new: Any) -> None:
    if path:
        get_at(tree, path[:-1])[path[-1]] = new


def _random_mapping(tree: Tree, rng: random.Random) -> Tree:
    """Choose a mapping of the tree, possibly the root."""
    found = [tree, *(inner for path in iter_paths(tree) if isinstance(inner := get_at(tree, path), dict))]
    chosen: Tree = rng.choice(found)
    return chosen


def drop(tree: Tree, rng: random.Random) -> None:
    """Delete a key or a list item."""
    path = _random_path(tree, rng)
    if path:
        del get_at(tree, path[:-1])[path[-1]]


def rename(tree: Tree, rng: random.Random) -> None:
    """Misspell a key, or replace it by another known one."""
    mapping = _random_mapping(tree, rng)
    if not mapping:
        return
    key = rng.choice(list(mapping))
    here = rng.randint(0, len(key))
    slips = (
        key[:here] + key[here + 1 :],
        key[:here] + "x" + key[here:],
        key.upper(),
        rng.choice(list(schemas_by_key())),
    )
    mapping[rng.choice(slips)] = mapping.pop(key)


def move(tree: Tree, rng: random.Random) -> None:
    """Move a key and its value to another mapping."""
    path = _random_path(tree, rng)
    if not path or isinstance(path[-1], int):
        return
    moved = get_at(tree, path[:-1]).pop(path[-1])
    _random_mapping(tree, rng)[str(path[-1])] = moved


def swap(tree: Tree, rng: random.Random) -> None:
    """Swap two values, or copy one over the other."""
    one, other = _random_path(tree, rng), _random_path(tree, rng)
    if not one or one == other[: len(one)] or other == one[: len(other)]:
        return
    first, second = get_at(tree, one), get_at(tree, other)
    _put(tree, one, deepcopy(second))
    if rng.random() < 0.5:
        _put(tree, other, deepcopy(first))


def nest(tree: Tree, rng: random.Random) -> None:
    """Wrap a value in lists or mappings, or replace a list or mapping by its first value."""
    path = _random_path(tree, rng)
    if not path:
        return
    inner = get_at(tree, path)
    if isinstance(inner, dict | list) and inner and rng.random() < 0.5:
        _put(tree, path, next(iter(inner.values())) if isinstance(inner, dict) else inner[0])
        return
    for _ in range(rng.choice((1, 1, 2, 30, 70))):
        inner = [inner] if rng.random() < 0.5 else {"x": inner}
    _put(tree, path, inner)


def replace(tree: Tree, rng: random.Random) -> None:
    """Replace a value by a random one of any type."""
    _put(tree, _random_path(tree, rng), random_value(rng))


def retype(tree: Tree, rng: random.Random) -> None:
    """Convert a value to another type, such as a number to text or a text to a list of its letters."""
    path = _random_path(tree, rng)
    if not path:
        return
    old = get_at(tree, path)
    new = (str(old), [old], {str(old)[:50]: old}, None, bool(old), list(str(old))[:40], len(str(old)), f"{old}\n")
    _put(tree, path, rng.choice(new))


def raw(tree: Tree, rng: random.Random) -> None:
    """Replace a value by a raw YAML scalar."""
    _put(tree, _random_path(tree, rng), _RAW.format(rng.randrange(len(RAW))))


def add_known_key(tree: Tree, rng: random.Random) -> None:
    """Set a key of the schema in any mapping, to a valid or nearly valid value."""
    name = rng.choice(list(schemas_by_key()))
    mapping = _random_mapping(tree, rng)
    mapping[name] = sample_schema(rng.choice(schemas_by_key()[name]), rng)


def refit(tree: Tree, rng: random.Random) -> None:
    """Replace the value of an existing key by one that its schema allows, or nearly allows."""
    keyed = [path for path in iter_paths(tree) if path[-1] in schemas_by_key()]
    if keyed:
        path = rng.choice(keyed)
        _put(tree, path, sample_schema(rng.choice(schemas_by_key()[str(path[-1])]), rng))


def graft(tree: Tree, rng: random.Random) -> None:
    """Insert the value of a key from another config."""
    key = rng.choice(list(values_by_key()))
    same = [path for path in iter_paths(tree) if path[-1] == key]
    new = deepcopy(rng.choice(values_by_key()[key]))
    if same and not key.isdigit():
        _put(tree, rng.choice(same), new)
    else:
        _random_mapping(tree, rng)[key] = new


MUTATORS: tuple[Mutator, ...] = (
    *(
        drop,
        rename,
        move,
        swap,
        nest,
        replace,
        replace,
        retype,
        raw,
        add_known_key,
        add_known_key,
        refit,
        refit,
        refit,
        graft,
        graft,
    ),
)


def mutate_tree(tree: Tree, rng: random.Random) -> Tree:
    """Apply one to six mutations in sequence, in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(MUTATORS)(tree, rng)
    return tree


def to_yaml(tree: Any) -> bytes:
    """Write the tree as YAML bytes, with raw scalars unquoted."""
    text = dump(tree)
    if _RAW.partition("{")[0] in text:
        for number, scalar in enumerate(RAW):
            text = text.replace(_RAW.format(number), scalar)
    return text.encode("utf-8", "surrogatepass")


def mutate_plain(tree: Tree, rng: random.Random) -> Tree:
    """Apply one or two mutations in place to a mapping for a format other than YAML."""
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice((drop, rename, move, swap, nest, replace, replace, replace, retype, refit))(tree, rng)
    return tree
