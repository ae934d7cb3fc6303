"""The `global_config` and `datasets` sections of a file to a list of `DatasetConfig`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from data_manager import sources  # noqa: F401  (registers the built-in sources)
from data_manager.dataset_types import DatasetConfig, GlobalConfig
from data_manager.lhotse_recipes import recipe_names
from data_manager.mixture_parts import with_parts
from data_manager.registry import SOURCES
from data_manager.shared_defaults import lay_shared_settings
from yaml_config.check import Checked, check
from yaml_config.choose import choose, missing_section
from yaml_config.document import read_document
from yaml_config.errors import ConfigValueError, Problem
from yaml_config.node import Node

DEFAULT_SOURCE = "lhotse"
MAX_DATASETS = 200
_FILLED = {
    "global_config": "it stands at the root of the file, beside 'datasets', and holds for all entries",
    "entries": "the parts of a mixture are entries of their own, which 'datasets' names",
}


def parse_dataset_configs(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> list[DatasetConfig]:
    """Read the data sections of a file; other sections are left unread.

    Raises ConfigError, which lists every problem of the sections with its place.
    """
    document = read_document(path, overrides)
    section = document.root.child("datasets")
    if section is None:
        raise ConfigValueError([*document.problems, missing_section(document.root, "datasets")])
    configs, problems = read_data_sections(section, document.root.child("global_config"))
    if problems or document.problems:
        raise ConfigValueError([*document.problems, *problems])
    return configs


def read_data_sections(section: Node | None, shared: Node | None) -> tuple[list[DatasetConfig], list[Problem]]:
    """Every entry of `datasets` with its resolved `global_config`, and the problems of both sections."""
    problems: list[Problem] = []
    global_config: GlobalConfig | None = GlobalConfig()
    if shared is not None:
        checked = check_section(shared, GlobalConfig, "global_config")
        global_config, problems = checked.value, checked.problems
    if section is None:
        return [], problems
    if not isinstance(section.value, list) or not section.value:
        what = f"takes a list of data sets; got {section.kind}" if section.value else "is empty"
        fix = "- name: librispeech"
        message = f"section 'datasets' {what}; begin with {fix}"
        return [], [*problems, Problem(section.shown_at, "datasets", "empty_section", message, fix)]
    if len(section.value) > MAX_DATASETS:
        message = f"section 'datasets' has {len(section.value):,} entries, and may have {MAX_DATASETS:,}"
        return [], [*problems, Problem(section.shown_at, "datasets", "too_large", message)]
    configs: list[DatasetConfig] = []
    names: dict[str, int] = {}
    for index, entry in enumerate(section.value):
        config, found = read_entry(lay_shared(entry, shared, problems), index)
        # a default that does not suit several entries is one problem, where it stands
        told = set(problems)
        problems += [problem for problem in found if problem not in told]
        name = entry.child("name")
        if name is not None and isinstance(name.value, str) and names.setdefault(name.value, index) != index:
            message = f"data set {name.value!r} is already entry {names[name.value]}; names must differ"
            problems.append(Problem(name.place, f"datasets.{index}.name", "relation", message))
        if config is not None and global_config is not None:
            configs.append(config.model_copy(update={"global_config": global_config}))
    configs, found = with_parts(configs, section)
    return configs, [*problems, *found]


def lay_shared(entry: Node, shared: Node | None, problems: Sequence[Problem] = ()) -> Node:
    """`entry` with the defaults of `global_config` laid under it, save those that `problems` are about."""
    source = entry.child("source")
    name = source.value if source is not None else DEFAULT_SOURCE
    if not entry.entries or not isinstance(name, str) or name not in SOURCES:
        return entry
    return lay_shared_settings(entry, shared, SOURCES.get(name).config_type, [problem.path for problem in problems])


def read_entry(entry: Node, index: int) -> tuple[DatasetConfig | None, list[Problem]]:
    """One entry of `datasets`, by the type that its `source` is registered with."""
    path = ("datasets", index)
    if not entry.entries:
        what = f"must be a mapping; got {entry.kind}" if entry.value else "is empty"
        fix = f"- name: {entry.value}" if isinstance(entry.value, str) else "- name: librispeech"
        return None, [Problem(entry.place, f"datasets.{index}", "type", f"a data set {what}; write {fix}", fix)]
    if "source" not in entry.entries and _is_text(entry):
        message = "missing key 'source': an entry with data_files is not a lhotse corpus; add source: text"
        problem = Problem(entry.shown_at, f"datasets.{index}.source", "missing_key", message, "source: text")
        entry = replace(entry, value={**entry.entries, "source": Node("text", entry.place)})
        return None, [problem, *read_entry(entry, index)[1]]
    entry, misplaced = _without_filled_keys(entry, index)
    choice = choose(entry, "source", SOURCES, path, DEFAULT_SOURCE)
    if choice.entry is None:
        return None, [*misplaced, *choice.problems]
    checked: Checked[Any] = check(choice.body, choice.entry.config_type, path, ("source",), _FILLED)
    problems = [*misplaced, *choice.problems, *checked.problems]
    return (
        None if problems or checked.value is None else checked.value.model_copy(update={"source": choice.name})
    ), problems


def _without_filled_keys(entry: Node, index: int) -> tuple[Node, list[Problem]]:
    """The entry without the keys of its type that are filled in from elsewhere in the file, each of them a problem."""
    problems = []
    for key, message in _FILLED.items():
        node = entry.child(key)
        if node is not None:
            place = node.key_place or node.place
            problems.append(Problem(place, f"datasets.{index}.{key}", "unknown_key", f"unknown key {key!r}; {message}"))
    return entry.without(*_FILLED), problems


def _is_text(entry: Node) -> bool:
    """Whether an entry without a source has keys of text; a speech corpus may have a tokenizer too."""
    name = entry.child("name")
    of_lhotse = name is not None and name.value in recipe_names()
    return "data_files" in entry.entries or ("tokenizer" in entry.entries and not of_lhotse)


def check_section(node: Node, model: Any, name: str) -> Checked[Any]:
    """A section that is one mapping; an empty one is a problem."""
    if not node.entries:
        what = "is empty" if node.value in (None, {}) else f"must be a mapping; got {node.kind}"
        return Checked(None, [Problem(node.shown_at, name, "empty_section", f"section {name!r} {what}")])
    return check(node, model, (name,))
