"""Find missing files and unfilled variables in the paths of an experiment.

They are notes, not errors, since data may lie on another machine.
"""

import glob
import os
import re
from collections.abc import Iterator

from data_manager.dataset_types import DatasetConfig
from data_manager.paths import places_of
from model_factory.experiment.config import Experiment
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.strict_model import Location

_NAMED = (("data_files",), ("path",), ("tokenizer", "path"))
_SHARDS = (("shards",),)
"""Keys of a data set under which a file or a folder is named; with `shards`, the others are not read."""
_PATHS = {*(key for keys in (*_NAMED, *_SHARDS) for key in keys), "corpus_dir", "output_dir", "init_from"}
_VARIABLE = re.compile(r"\$\{[^}]*\}|(?:^|/)\$[A-Za-z_]\w*|%[A-Za-z_]\w*%")
"""A variable of OmegaConf, of a shell or of Windows."""


def find_variables(experiment: Experiment) -> list[Problem]:
    """Return a note for each path with a variable such as $HOME, which is used as written."""
    notes = []
    for path, node in _texts(experiment.root, ()):
        found = _VARIABLE.search(str(node.value)) if _PATHS.intersection(map(str, path)) else None
        if found is not None and not os.path.exists(str(node.value)):
            message = f"{found[0].lstrip('/')!r} is used as written: variables in paths are not filled in"
            fix = "write the path itself; ~ is the home folder, and --set overrides a value"
            notes.append(Problem(node.report_place, dotted(path), "variable", f"{message}; {fix}"))
    return notes


def find_missing_files(experiment: Experiment) -> list[Problem]:
    """Return a note for each data set that names files which are in none of the folders searched."""
    notes = []
    for index, entry in enumerate(experiment.config.datasets or ()):
        keys = _NAMED if getattr(entry, "shards", None) is None else _SHARDS
        paths = [("datasets", index, *key) for key in keys]
        named = [found for path in paths for found in _texts(experiment.root.at(path), path)]
        absent = [(path, node) for path, node in named if not _exists(str(node.value), entry)]
        if absent:
            (path, node), names = absent[0], [str(node.value) for _, node in absent]
            notes.append(Problem(node.report_place, dotted(path), "absent_file", _message(names, entry)))
    return notes


def _texts(node: Node | None, path: Location) -> Iterator[tuple[Location, Node]]:
    """Yield the strings at and below a node, with their paths."""
    if node is None:
        return
    if isinstance(node.value, dict | list):
        parts = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
        for key, part in parts:
            yield from _texts(part, (*path, key))
    elif isinstance(node.value, str):
        yield path, node


def _exists(name: str, entry: DatasetConfig) -> bool:
    """Return True if a file exists; a pattern counts as existing, since searching may mean reading a whole disk."""
    return glob.has_magic(name) or any(os.path.exists(place) for place in places_of(name, entry))


def _message(names: list[str], entry: DatasetConfig) -> str:
    looked = ", ".join(dict.fromkeys(str(place.parent) for place in places_of(names[0], entry)))
    more = (
        f" and {len(names) - 1} more files are" if len(names) > 2 else f" and {names[1]!r} are" if names[1:] else " is"
    )
    return f"{names[0]!r}{more} not there yet; looked for in {looked}"
