"""Settings that `global_config` gives to every entry whose type has them; an entry's own value wins, key by key."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from data_manager.speech_settings import takes
from yaml_config.node import Node

SHARED_SECTIONS = ("features", "loading")


def with_shared_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of an entry made in Python, with the sections of its `global_config` laid under them."""
    found = dict(values)
    shared = _given(values.get("global_config"))
    for section in SHARED_SECTIONS:
        defaults, own = _given(shared.get(section)), _given(values.get(section, {}))
        if defaults and isinstance(values.get(section, {}), dict | BaseModel):
            kept = _inheritable(defaults, defaults.get("type"), own.get("type"))
            found[section] = {**{key: defaults[key] for key in kept}, **own}
    return found


def lay_shared_settings(
    entry: Node, shared: Node | None, config_type: type[BaseModel], wrong: Collection[str] = ()
) -> Node:
    """`entry` of a file, with the sections of `global_config` laid under those that `config_type` has.

    Values that stand at a path in `wrong` are left out: they have been reported where they stand.
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
            for key, node in _kept(defaults, own).items()
            if f"global_config.{section}.{key}" not in wrong
        }
        merged = replace(own or replace(defaults, key_place=None), value={**nodes, **(own.entries if own else {})})
        entry = replace(entry, value={**entry.entries, section: merged})
    return entry


def _kept(defaults: Node, own: Node | None) -> dict[str, Node]:
    kinds = [node.child("type") if node is not None else None for node in (defaults, own)]
    types = [kind.value if kind is not None else None for kind in kinds]
    kept = _inheritable({key: node.value for key, node in defaults.entries.items()}, *types)
    return {key: defaults.entries[key] for key in kept}


def _inheritable(defaults: Mapping[str, Any], shared_type: Any, own_type: Any) -> list[str]:
    """Keys of `defaults` that features of the entry's own type take."""
    kind = own_type or shared_type
    return [key for key, value in defaults.items() if value is not None and (kind is None or takes(kind, key))]


def _given(value: Any) -> dict[str, Any]:
    """What was given to a model or in a dict; empty for anything else."""
    if isinstance(value, BaseModel):
        return {key: getattr(value, key) for key in value.model_fields_set}
    return value if isinstance(value, dict) else {}
