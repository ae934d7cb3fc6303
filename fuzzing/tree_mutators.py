"""Mutators of a config as a tree: plain data changed in place, then written as YAML."""

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from fuzzing.known import at, fitting, parts, places, properties
from fuzzing.values import RAW, value
from yaml_config.dump import dump
from yaml_config.strict_model import Location

Tree = dict[str, Any]
Mutator = Callable[[Tree, random.Random], None]
_RAW = "RAWSCALAR{}X"
"""Stands in the tree for a scalar of RAW, and is replaced in the text."""


def _any(tree: Tree, rng: random.Random) -> Location:
    found = list(places(tree))
    return rng.choice(found) if found else ()


def _put(tree: Tree, path: Location, new: Any) -> None:
    if path:
        at(tree, path[:-1])[path[-1]] = new


def _mapping(tree: Tree, rng: random.Random) -> Tree:
    """Some mapping of the tree, the root among them."""
    found = [tree, *(inner for path in places(tree) if isinstance(inner := at(tree, path), dict))]
    chosen: Tree = rng.choice(found)
    return chosen


def drop(tree: Tree, rng: random.Random) -> None:
    """A key or an entry is left out."""
    path = _any(tree, rng)
    if path:
        del at(tree, path[:-1])[path[-1]]


def rename(tree: Tree, rng: random.Random) -> None:
    """A key is misspelt, or becomes another known one."""
    mapping = _mapping(tree, rng)
    if not mapping:
        return
    key = rng.choice(list(mapping))
    here = rng.randint(0, len(key))
    slips = (key[:here] + key[here + 1 :], key[:here] + "x" + key[here:], key.upper(), rng.choice(list(properties())))
    mapping[rng.choice(slips)] = mapping.pop(key)


def move(tree: Tree, rng: random.Random) -> None:
    """A key and its value stand in another mapping."""
    path = _any(tree, rng)
    if not path or isinstance(path[-1], int):
        return
    moved = at(tree, path[:-1]).pop(path[-1])
    _mapping(tree, rng)[str(path[-1])] = moved


def swap(tree: Tree, rng: random.Random) -> None:
    """Two values change places, or one stands in both."""
    one, other = _any(tree, rng), _any(tree, rng)
    if not one or one == other[: len(one)] or other == one[: len(other)]:
        return
    first, second = at(tree, one), at(tree, other)
    _put(tree, one, deepcopy(second))
    if rng.random() < 0.5:
        _put(tree, other, deepcopy(first))


def nest(tree: Tree, rng: random.Random) -> None:
    """A value stands in a list or a mapping, or many of them; or a list's or mapping's first in its place."""
    path = _any(tree, rng)
    if not path:
        return
    inner = at(tree, path)
    if isinstance(inner, dict | list) and inner and rng.random() < 0.5:
        _put(tree, path, next(iter(inner.values())) if isinstance(inner, dict) else inner[0])
        return
    for _ in range(rng.choice((1, 1, 2, 30, 70))):
        inner = [inner] if rng.random() < 0.5 else {"x": inner}
    _put(tree, path, inner)


def replace(tree: Tree, rng: random.Random) -> None:
    """A value becomes another of any type."""
    _put(tree, _any(tree, rng), value(rng))


def retype(tree: Tree, rng: random.Random) -> None:
    """A value is written as another type: a number as text, a text as a list of its letters."""
    path = _any(tree, rng)
    if not path:
        return
    old = at(tree, path)
    new = (str(old), [old], {str(old)[:50]: old}, None, bool(old), list(str(old))[:40], len(str(old)), f"{old}\n")
    _put(tree, path, rng.choice(new))


def raw(tree: Tree, rng: random.Random) -> None:
    """A value becomes a scalar that only text can spell."""
    _put(tree, _any(tree, rng), _RAW.format(rng.randrange(len(RAW))))


def known(tree: Tree, rng: random.Random) -> None:
    """A key of the schema with a value that suits it, or nearly, in the mapping where it belongs or in another."""
    name = rng.choice(list(properties()))
    mapping = _mapping(tree, rng)
    mapping[name] = fitting(rng.choice(properties()[name]), rng)


def refit(tree: Tree, rng: random.Random) -> None:
    """A key that is there takes another value that its schema allows, or nearly."""
    keyed = [path for path in places(tree) if path[-1] in properties()]
    if keyed:
        path = rng.choice(keyed)
        _put(tree, path, fitting(rng.choice(properties()[str(path[-1])]), rng))


def graft(tree: Tree, rng: random.Random) -> None:
    """What another config has under a key stands here."""
    key = rng.choice(list(parts()))
    same = [path for path in places(tree) if path[-1] == key]
    new = deepcopy(rng.choice(parts()[key]))
    if same and not key.isdigit():
        _put(tree, rng.choice(same), new)
    else:
        _mapping(tree, rng)[key] = new


MUTATORS: tuple[Mutator, ...] = (
    *(drop, rename, move, swap, nest, replace, replace, retype, raw, known, known, refit, refit, refit, graft, graft),
)


def mutate_tree(tree: Tree, rng: random.Random) -> Tree:
    """One to six mutations, one after another, in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(MUTATORS)(tree, rng)
    return tree


def written(tree: Any) -> bytes:
    """The tree as YAML, raw scalars as they are."""
    text = dump(tree)
    if _RAW.partition("{")[0] in text:
        for number, scalar in enumerate(RAW):
            text = text.replace(_RAW.format(number), scalar)
    return text.encode("utf-8", "surrogatepass")


def mutate_plain(tree: Tree, rng: random.Random) -> Tree:
    """One or two mutations of a mapping that is to be written as something else than YAML, in place."""
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice((drop, rename, move, swap, nest, replace, replace, replace, retype, refit))(tree, rng)
    return tree
