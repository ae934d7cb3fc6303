"""Parse the `global_config` and `datasets` sections of a file into a list of `DatasetConfig`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from data_manager import sources  # noqa: F401  (registers the built-in sources)
from data_manager.dataset_types import DatasetConfig, GlobalConfig
from data_manager.registry import SOURCES
from data_manager.shared_defaults import fill_shared_nodes
from data_manager.speech.recipes import recipe_names
from data_manager.text.mixture_types import with_parts
from model_factory.yaml_config.check import Checked, check
from model_factory.yaml_config.choose import choose, missing_section
from model_factory.yaml_config.document import read_document
from model_factory.yaml_config.errors import ConfigValueError, Problem
from model_factory.yaml_config.node import Node

DEFAULT_SOURCE = "lhotse"
MAX_DATASETS = 200
_DERIVED_KEYS = {
    "global_config": "write it at the root of the file, beside 'datasets'; it applies to all entries",
    "entries": "write the parts of a mixture as separate entries and name them in its 'datasets'",
}


def parse_dataset_configs(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> list[DatasetConfig]:
    """Read the data sections of a file and ignore all other sections.

    Raise ConfigError, which lists every problem of these sections with its line and column.
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
    """Parse every entry of `datasets` with its resolved `global_config`; return them with the problems of both sections."""
    problems: list[Problem] = []
    global_config: GlobalConfig | None = GlobalConfig()
    if shared is not None:
        checked = check_section(shared, GlobalConfig, "global_config")
        global_config, problems = checked.value, checked.problems
    if section is None:
        return [], problems
    if not isinstance(section.value, list) or not section.value:
        what = f"must be a list of data sets; got {section.kind}" if section.value else "is empty"
        fix = "- name: librispeech"
        message = f"section 'datasets' {what}; begin with {fix}"
        return [], [*problems, Problem(section.report_place, "datasets", "empty_section", message, fix)]
    if len(section.value) > MAX_DATASETS:
        message = f"section 'datasets' has {len(section.value):,} entries; the limit is {MAX_DATASETS:,}"
        return [], [*problems, Problem(section.report_place, "datasets", "too_large", message)]
    configs: list[DatasetConfig] = []
    names: dict[str, int] = {}
    for index, entry in enumerate(section.value):
        config, found = read_entry(fill_shared_defaults(entry, shared, problems), index)
        # an invalid default shared by several entries is reported once, at its position in the file
        reported = set(problems)
        problems += [problem for problem in found if problem not in reported]
        name = entry.child("name")
        if name is not None and isinstance(name.value, str) and names.setdefault(name.value, index) != index:
            message = f"data set {name.value!r} is already entry {names[name.value]}; names must differ"
            problems.append(Problem(name.place, f"datasets.{index}.name", "relation", message))
        if config is not None and global_config is not None:
            configs.append(config.model_copy(update={"global_config": global_config}))
    configs, found = with_parts(configs, section)
    return configs, [*problems, *found]


def fill_shared_defaults(entry: Node, shared: Node | None, problems: Sequence[Problem] = ()) -> Node:
    """Fill `entry` with the defaults of `global_config`, except values already reported in `problems`."""
    source = entry.child("source")
    name = source.value if source is not None else DEFAULT_SOURCE
    if not entry.entries or not isinstance(name, str) or name not in SOURCES:
        return entry
    return fill_shared_nodes(entry, shared, SOURCES.get(name).config_type, [problem.path for problem in problems])


def read_entry(entry: Node, index: int) -> tuple[DatasetConfig | None, list[Problem]]:
    """Parse one entry of `datasets` as the config type registered for its `source`."""
    path = ("datasets", index)
    if not entry.entries:
        what = f"must be a mapping; got {entry.kind}" if entry.value else "is empty"
        fix = f"- name: {entry.value}" if isinstance(entry.value, str) else "- name: librispeech"
        return None, [Problem(entry.place, f"datasets.{index}", "type", f"a data set {what}; write {fix}", fix)]
    if "source" not in entry.entries and _looks_like_text(entry):
        message = "missing key 'source': an entry with data_files is not a lhotse corpus; add source: text"
        problem = Problem(entry.report_place, f"datasets.{index}.source", "missing_key", message, "source: text")
        entry = replace(entry, value={**entry.entries, "source": Node("text", entry.place)})
        return None, [problem, *read_entry(entry, index)[1]]
    entry, misplaced = _without_derived_keys(entry, index)
    choice = choose(entry, "source", SOURCES, path, DEFAULT_SOURCE)
    if choice.entry is None:
        return None, [*misplaced, *choice.problems]
    checked: Checked[Any] = check(choice.body, choice.entry.config_type, path, ("source",), _DERIVED_KEYS)
    problems = [*misplaced, *choice.problems, *checked.problems]
    return (
        None if problems or checked.value is None else checked.value.model_copy(update={"source": choice.name})
    ), problems


def _without_derived_keys(entry: Node, index: int) -> tuple[Node, list[Problem]]:
    """Remove the keys that are filled in from other parts of the file, and report each as a problem."""
    problems = []
    for key, message in _DERIVED_KEYS.items():
        node = entry.child(key)
        if node is not None:
            place = node.key_place or node.place
            problems.append(Problem(place, f"datasets.{index}.{key}", "unknown_key", f"unknown key {key!r}; {message}"))
    return entry.without(*_DERIVED_KEYS), problems


def _looks_like_text(entry: Node) -> bool:
    """Return True if an entry without a source has keys of a text data set; a speech corpus may have a tokenizer too."""
    name = entry.child("name")
    is_corpus = name is not None and name.value in recipe_names()
    return "data_files" in entry.entries or ("tokenizer" in entry.entries and not is_corpus)


def check_section(node: Node, model: Any, name: str) -> Checked[Any]:
    """Validate a section that must be a mapping; report an empty one as a problem."""
    if not node.entries:
        what = "is empty" if node.value in (None, {}) else f"must be a mapping; got {node.kind}"
        return Checked(None, [Problem(node.report_place, name, "empty_section", f"section {name!r} {what}")])
    return check(node, model, (name,))
