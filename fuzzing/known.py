"""What the shipped configs and their schema know: keys, values and whole parts, from which mutators draw."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from experiment.shipped import CONFIGS
from fuzzing.values import value
from yaml_config.compose import compose
from yaml_config.strict_model import Location


@cache
def config_names() -> tuple[str, ...]:
    """Every shipped config, as `configs/...`."""
    return tuple(sorted(path.relative_to(CONFIGS.parent).as_posix() for path in CONFIGS.rglob("*.yml")))


def config_path(name: str) -> Path:
    """Where a shipped config lies."""
    return CONFIGS.parent / name


@cache
def config_bytes(name: str) -> bytes:
    """A shipped config as it lies on the disk."""
    return config_path(name).read_bytes()


def config_tree(name: str) -> Any:
    """A shipped config as plain data, new at each call."""
    return compose(config_bytes(name).decode(), name)[0].data()


def places(tree: Any, path: Location = ()) -> Iterator[Location]:
    """The path of everything below the root of plain data."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def at(tree: Any, path: Location) -> Any:
    """What stands at a path."""
    for key in path:
        tree = tree[key]
    return tree


@cache
def parts() -> dict[str, list[Any]]:
    """What stands under each key in any shipped config."""
    found: dict[str, list[Any]] = {}
    for name in config_names():
        tree = config_tree(name)
        for path in places(tree):
            found.setdefault(str(path[-1]), []).append(at(tree, path))
    return found


@cache
def properties() -> dict[str, list[Any]]:
    """The schemas of each key that the JSON Schema knows, wherever."""
    found: dict[str, list[Any]] = {}
    _collect(json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8")), found)
    return found


def _collect(schema: Any, found: dict[str, list[Any]]) -> None:
    if isinstance(schema, list):
        for item in schema:
            _collect(item, found)
    elif isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            found.setdefault(name, []).append(inner)
        for inner in schema.values():
            _collect(inner, found)


def fitting(schema: Any, rng: random.Random, depth: int = 0) -> Any:
    """A value that a schema allows, or nearly: at the bounds, beside them, or of any type."""
    if not isinstance(schema, dict) or depth > 4 or rng.random() < 0.1:
        return value(rng)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return fitting(rng.choice(schema[key]), rng, depth + 1)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return _number(schema, rng, kind == "integer")
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "string":
        return rng.choice(("x", "a", "text", "bytes", *(str(item) for item in schema.get("examples", ()))))
    if kind == "array":
        return [fitting(schema.get("items"), rng, depth + 1) for _ in range(rng.choice((0, 1, 2)))]
    if kind == "object" or "properties" in schema:
        inner = list(schema.get("properties", {}).items())
        chosen = rng.sample(inner, min(len(inner), rng.choice((0, 1, 2, 4))))
        return {name: fitting(found, rng, depth + 1) for name, found in chosen}
    return value(rng)


def _number(schema: dict[str, Any], rng: random.Random, whole: bool) -> Any:
    bounds = [schema[key] for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in schema]
    near = [bound + step for bound in bounds for step in (-1, 0, 1)]
    common = (1, 2, 4, 8, 64, 256) if whole else (0.0, 0.1, 0.5, 1.0, 1e-4, 3.0)
    return rng.choice((*near, *common))
