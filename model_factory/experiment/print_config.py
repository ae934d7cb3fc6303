"""Print the resolved config as YAML, each value with its origin: a line, a `--set` option, or a default."""

from dataclasses import replace
from typing import Any

from data_manager.parse_data_args import fill_shared_defaults
from model.parse_model_args import merge_global_config
from model_factory.experiment.config import Experiment
from model_factory.yaml_config.dump import dump_scalar
from model_factory.yaml_config.errors import escape_line
from model_factory.yaml_config.node import Node

COMMENT_COLUMN = 44


def print_config(experiment: Experiment) -> str:
    """Return YAML that reads back as the same experiment, with the origin of each value in a comment."""
    data = experiment.config.to_dict()
    return "\n".join(_mapping(data, _resolved(experiment.root), 0)) + "\n"


def _resolved(root: Node) -> Node:
    """Merge `global_config` into the data sets and `model.global_config` into the parts, as the config does."""
    data, shared = root.child("datasets"), root.child("global_config")
    if data is not None and isinstance(data.value, list):
        merged = replace(data, value=[fill_shared_defaults(entry, shared) for entry in data.value])
        root = root.edited(("datasets",), lambda _: merged)
    section = root.child("model")
    if section is None or section.child("global_config") is None:
        return root
    parts = [name for name in ("encoder", "decoder") if name in section.entries]
    merged, _ = merge_global_config(section, parts)
    return root.edited(("model",), lambda _: merged)


def _origin(node: Node | None) -> str:
    if node is None:
        return "default"
    inherited = f" ({'.'.join(map(str, node.origin[:-1]))})" if node.origin else ""
    place = node.place
    file = escape_line(place.file)  # a line break in a name would end the comment, and what follows would be YAML
    return (file if place.line is None else f"{file}:{place.line}") + inherited


def _mapping(data: dict[str, Any], node: Node | None, depth: int) -> list[str]:
    lines = []
    for key, value in data.items():
        child = node.child(key) if node else None
        lines += _entry("  " * depth + f"{dump_scalar(key)}:", value, child, depth + 1)
    return lines


def _entry(head: str, value: Any, node: Node | None, depth: int) -> list[str]:
    if isinstance(value, dict) and value:
        return [head, *_mapping(value, node, depth)]
    if isinstance(value, list) and value:
        lines = [head]
        for index, item in enumerate(value):
            lines += _item(item, node.child(index) if node else None, depth)
        return lines
    text = "{}" if value == {} and isinstance(value, dict) else "[]" if isinstance(value, list) else dump_scalar(value)
    return [f"{head} {text}".ljust(COMMENT_COLUMN) + f"  # {_origin(node)}"]


def _item(item: Any, node: Node | None, depth: int) -> list[str]:
    """Format one entry of a list, with a dash before its first line."""
    indent = "  " * depth
    if isinstance(item, dict) and item:
        first, *rest = _mapping(item, node, depth + 1)
        return [f"{indent}- {first.lstrip()}", *rest]
    return _entry(f"{indent}-", item, node, depth + 1)
