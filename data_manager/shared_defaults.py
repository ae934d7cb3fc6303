"""Merge shared settings of `global_config` into entries; a value set in the entry wins, key by key."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from data_manager.speech_settings import has_parameter
from model_factory.yaml_config.node import Node

SHARED_SECTIONS = ("features", "loading")


def fill_shared_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the `values` of an entry built in Python with the defaults of its `global_config`."""
    found = dict(values)
    shared = _explicit_values(values.get("global_config"))
    for section in SHARED_SECTIONS:
        defaults, own = _explicit_values(shared.get(section)), _explicit_values(values.get(section, {}))
        if defaults and isinstance(values.get(section, {}), dict | BaseModel):
            kept = _inheritable_keys(defaults, defaults.get("type"), own.get("type"))
            found[section] = {**{key: defaults[key] for key in kept}, **own}
    return found


def fill_shared_nodes(
    entry: Node, shared: Node | None, config_type: type[BaseModel], wrong: Collection[str] = ()
) -> Node:
    """Fill the sections of a parsed `entry` that `config_type` has with the defaults of `global_config`.

    Values at a path in `wrong` are skipped: they have already been reported.
    """
    for section in SHARED_SECTIONS:
        defaults = shared.child(section) if shared is not None else None
        own = entry.child(section)
        if defaults is None or not defaults.entries or section not in config_type.model_fields:
            continue
        if own is not None and not isinstance(own.value, dict):
            continue
        nodes = {
            key: replace(node, origin=("global_config", section, key))
            for key, node in _inherited_nodes(defaults, own).items()
            if f"global_config.{section}.{key}" not in wrong
        }
        merged = replace(own or replace(defaults, key_place=None), value={**nodes, **(own.entries if own else {})})
        entry = replace(entry, value={**entry.entries, section: merged})
    return entry


def _inherited_nodes(defaults: Node, own: Node | None) -> dict[str, Node]:
    kinds = [node.child("type") if node is not None else None for node in (defaults, own)]
    types = [kind.value if kind is not None else None for kind in kinds]
    kept = _inheritable_keys({key: node.value for key, node in defaults.entries.items()}, *types)
    return {key: defaults.entries[key] for key in kept}


def _inheritable_keys(defaults: Mapping[str, Any], shared_type: Any, own_type: Any) -> list[str]:
    """List the keys of `defaults` that are valid for the entry's feature type."""
    kind = own_type or shared_type
    return [key for key, value in defaults.items() if value is not None and (kind is None or has_parameter(kind, key))]


def _explicit_values(value: Any) -> dict[str, Any]:
    """Return the explicitly set values of a model or a dict; empty for anything else."""
    if isinstance(value, BaseModel):
        return {key: getattr(value, key) for key in value.model_fields_set}
    return value if isinstance(value, dict) else {}
