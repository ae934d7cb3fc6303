"""Apply `--set a.b.0.c=value` to a tree; the option becomes the position of the value."""

import re
from dataclasses import replace

from model_factory.yaml_config.compose import MAX_DEPTH, compose
from model_factory.yaml_config.errors import ConfigSyntaxError, ConfigValueError, Place, Problem, fail
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.scalars import resolve_scalar
from model_factory.yaml_config.strict_model import Location

MAX_LENGTH = 10_000
_SHOWN = 200
"""Characters of an option shown in messages."""


def split_override(option: str) -> tuple[Location, str]:
    """Split `a.b.0.c=value` into (('a', 'b', 0, 'c'), 'value'); raises ValueError for another form."""
    path, equals, text = option.partition("=")
    keys = tuple(int(key) if _is_index(key) else key for key in path.strip().split("."))
    if not equals or "" in keys:
        raise ValueError(f"--set takes KEY=VALUE with a dotted key, as in model.encoder.dropout=0.2; got {option!r}")
    return keys, text


_SCALARS = ("must be an integer", "must be a number", "must be true or false")


def suggest_sweep(problem: Problem) -> Problem:
    """Add the verb `sweep` to the problem of `--set a.b=1,2`, where each of the values would fit but not their list."""
    option = problem.place.file.removeprefix("--set ")
    key, _, text = option.partition("=")
    values = [value.strip() for value in text.split(",")]
    is_list = option != problem.place.file and key.strip() == problem.path and len(values) > 1 and "" not in values
    if not is_list or not (_are_scalars(values, problem.message) or _are_choices(values, text, problem)):
        return problem
    message = f"{problem.message}; to train with each of these values: model-factory sweep --set {key}={text}"
    return replace(problem, message=message)


def _are_scalars(values: list[str], message: str) -> bool:
    """Return True if a message that asks for a number or a bool would not be raised for any of the values."""
    kinds: tuple[type, ...] = (bool,) if message.startswith(_SCALARS[2]) else (int, float, type(None))
    try:
        found = [resolve_scalar(value) for value in values]
    except ValueError:  # a number of too many digits
        return False
    return message.startswith(_SCALARS) and all(isinstance(value, kinds) for value in found)


def _are_choices(values: list[str], text: str, problem: Problem) -> bool:
    """Return True if the message of an unknown name lists one of the values."""
    known = re.findall(r"[\w-]+", problem.message.replace(text, ""))
    return problem.code == "choice" and not {*values}.isdisjoint(known)


def _is_index(key: str) -> bool:
    """Return True if a key is an index of a list; `007` and very long numbers are not."""
    return re.fullmatch("0|[1-9][0-9]{0,17}", key) is not None


def apply_override(root: Node, option: str) -> tuple[Node, list[Problem]]:
    """Return a copy of `root` with the option applied, and the problems of its value.

    The value is read as YAML. Raises ConfigSyntaxError for a value that is not YAML, too long or nested too deeply,
    ConfigValueError if a key leads into a scalar or past the end of a list, ValueError for an option of another form.
    """
    keys, text = split_override(option)
    place = Place(f"--set {option if len(option) <= _SHOWN else option[: _SHOWN - 3] + '...'}")
    if len(option) > MAX_LENGTH:
        message = f"the option has {len(option):,} characters, and may have {MAX_LENGTH:,}"
        raise fail(ConfigSyntaxError, place, message, code="too_large", fix="write it into the file")
    if len(keys) > MAX_DEPTH:
        raise fail(ConfigSyntaxError, place, f"nested more than {MAX_DEPTH} deep", code="too_large")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise fail(ConfigSyntaxError, place, "the value is not UTF-8", path=dotted(keys)) from None
    try:
        node, problems = compose(text, place.file) if text.strip() else (Node(None, place), [])
    except ConfigSyntaxError as error:
        raise ConfigSyntaxError([replace(p, place=place, path=dotted(keys)) for p in error.problems]) from None
    return _put(root, keys, _placed(node, place), place, ()), [replace(p, place=place) for p in problems]


def _placed(node: Node, place: Place) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _placed(child, place) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_placed(child, place) for child in value]
    return replace(node, value=value, place=place, key_place=place)


def _put(node: Node | None, keys: Location, new: Node, place: Place, done: Location) -> Node:
    """Return `node` with `new` at `keys` below it; missing mappings are created."""
    if not keys:
        return new
    key, here = keys[0], dotted((*done, keys[0]))
    if node is None or node.value is None:
        node = Node({}, place, place)
    if isinstance(node.value, list):
        if not isinstance(key, int) or key >= len(node.value):
            size = len(node.value)
            entries = f"{size} entries, 0 to {size - 1}" if size > 1 else "one entry, 0" if size else "no entries"
            message = f"the list {dotted(done)!r} has {entries}"
            raise fail(ConfigValueError, place, message, code="override", path=here)
        items = list(node.value)
        items[key] = _put(items[key], keys[1:], new, place, (*done, key))
        return replace(node, value=items)
    if not isinstance(node.value, dict):
        message = f"{dotted(done)!r} is {node.kind}, and nothing can be set below it"
        raise fail(ConfigValueError, place, message, code="override", path=here)
    child = _put(node.child(key), keys[1:], new, place, (*done, key))
    return replace(node, value={**node.value, str(key): child})
