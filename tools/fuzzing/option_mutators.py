"""Random `--set` options: valid, nearly valid and absurd ones."""

import random
from typing import Any

from model_factory.yaml_config.dump import dump_scalar
from model_factory.yaml_config.strict_model import Location
from tools.fuzzing.packaged_configs import get_at, iter_paths, sample_schema, schemas_by_key
from tools.fuzzing.values import NUMBERS, RAW, TEXTS

_KEYS = (
    "",
    " ",
    "-1",
    "99",
    "9" * 30,
    "9" * 5000,
    "x",
    "ü",
    "\udcff",
    "a b",
    "\n",
    "\x1b[1m",
    "<<",
    "extends",
    "'",
    "٣",
    "0x1",
)


def random_options(tree: Any, rng: random.Random) -> list[str]:
    """Generate one to four options for a config."""
    return [_random_option(tree, rng) for _ in range(rng.choice((1, 1, 2, 4)))]


def _random_option(tree: Any, rng: random.Random) -> str:
    path = list(rng.choice(list(iter_paths(tree)))) if tree else ["model"]
    kind = rng.random()
    if kind < 0.2:
        path.append(rng.choice(list(schemas_by_key())))
    elif kind < 0.3:
        path[rng.randrange(len(path))] = rng.choice(_KEYS)
    elif kind < 0.35:
        path += [rng.choice(_KEYS)] * rng.choice((1, 3, 70, 3000))
    elif kind < 0.4:
        del path[rng.randrange(len(path)) :]
    key = ".".join(map(str, path)).replace("\x00", "")
    return key + rng.choice(("=",) * 20 + ("", "==", " = ", ":")) + _random_value(tuple(path), rng).replace("\x00", "")


def _random_value(path: Location, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4 and path and path[-1] in schemas_by_key():
        found = sample_schema(rng.choice(schemas_by_key()[str(path[-1])]), rng)
        return dump_scalar(found) if not isinstance(found, dict | list) else _flow(found)
    if kind < 0.6:
        return dump_scalar(rng.choice(NUMBERS))
    return rng.choice(RAW if kind < 0.85 else TEXTS)


def _flow(data: Any) -> str:
    """Format plain data as flow YAML on one line."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{dump_scalar(key)}: {_flow(item)}" for key, item in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(map(_flow, data)) + "]"
    return dump_scalar(data)


def format_override(tree: Any, at_path: Location) -> str:
    """Format the value at a path as an option that sets it."""
    return f"{'.'.join(map(str, at_path))}={_flow(get_at(tree, at_path))}"
