"""Keys, values and subtrees of the packaged configs and their schema, from which mutators draw."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from model_factory.yaml_config.compose import compose
from model_factory.yaml_config.paths import CONFIGS
from model_factory.yaml_config.strict_model import Location
from tools.fuzzing.values import random_value


@cache
def config_names() -> tuple[str, ...]:
    """List every packaged config, as `configs/...`."""
    return tuple(sorted(path.relative_to(CONFIGS.parent).as_posix() for path in CONFIGS.rglob("*.yml")))


def config_path(name: str) -> Path:
    """Return the path of a packaged config."""
    return CONFIGS.parent / name


@cache
def config_bytes(name: str) -> bytes:
    """Read a packaged config as bytes."""
    return config_path(name).read_bytes()


def config_tree(name: str) -> Any:
    """Parse a packaged config into new plain data."""
    return compose(config_bytes(name).decode(), name)[0].data()


def iter_paths(tree: Any, path: Location = ()) -> Iterator[Location]:
    """Yield the path of every node below the root."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from iter_paths(child, (*path, key))


def get_at(tree: Any, path: Location) -> Any:
    """Return the value at a path."""
    for key in path:
        tree = tree[key]
    return tree


@cache
def values_by_key() -> dict[str, list[Any]]:
    """Collect the values of each key over all packaged configs."""
    found: dict[str, list[Any]] = {}
    for name in config_names():
        tree = config_tree(name)
        for path in iter_paths(tree):
            found.setdefault(str(path[-1]), []).append(get_at(tree, path))
    return found


@cache
def schemas_by_key() -> dict[str, list[Any]]:
    """Collect the schemas of each key at any depth of the JSON Schema."""
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


def sample_schema(schema: Any, rng: random.Random, depth: int = 0) -> Any:
    """Draw a value that a schema allows, or nearly allows: at or next to a bound, or of any type."""
    if not isinstance(schema, dict) or depth > 4 or rng.random() < 0.1:
        return random_value(rng)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return sample_schema(rng.choice(schema[key]), rng, depth + 1)
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
        return [sample_schema(schema.get("items"), rng, depth + 1) for _ in range(rng.choice((0, 1, 2)))]
    if kind == "object" or "properties" in schema:
        inner = list(schema.get("properties", {}).items())
        chosen = rng.sample(inner, min(len(inner), rng.choice((0, 1, 2, 4))))
        return {name: sample_schema(found, rng, depth + 1) for name, found in chosen}
    return random_value(rng)


def _number(schema: dict[str, Any], rng: random.Random, whole: bool) -> Any:
    bounds = [schema[key] for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in schema]
    near = [bound + step for bound in bounds for step in (-1, 0, 1)]
    common = (1, 2, 4, 8, 64, 256) if whole else (0.0, 0.1, 0.5, 1.0, 1e-4, 3.0)
    return rng.choice((*near, *common))
