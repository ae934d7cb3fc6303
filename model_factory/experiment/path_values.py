"""Fill in the paths of a file before it is validated: `${env:NAME}`, and data files beside the YAML file. Note missing files."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.dataset_types import DatasetConfig
from data_manager.paths import places_of
from model_factory.yaml_config.errors import Place, Problem
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.paths import expand_home
from model_factory.yaml_config.strict_model import Location

if TYPE_CHECKING:
    from model_factory.experiment.config import Experiment

DATA_PATHS = (("data_files",), ("path",), ("tokenizer", "path"), ("tokenizer", "run"))
"""Keys of a data set under which a file or a folder is named."""
_PATHS = {*(key for keys in DATA_PATHS for key in keys), "corpus_dir", "output_dir", "init_from"}
_ENVIRONMENT = re.compile(r"\$\{env:(\w+)\}")
_VARIABLE = re.compile(r"\$\{[^}]*\}|(?:^|/)\$[A-Za-z_]\w*|%[A-Za-z_]\w*%")
"""A variable of OmegaConf, of a shell or of Windows."""


def fill_paths(root: Node) -> tuple[Node, list[Problem]]:
    """Return the tree with its paths filled in, and a problem for each variable that is not `${env:NAME}` or not set.

    A relative data file that is in none of the folders searched, and is beside the file that names it, gets its full path.
    A path with a variable is used as written if it exists.
    """
    problems: list[Problem] = []
    for path, node in texts_in(root, ()):
        if not _PATHS.intersection(map(str, path)) or path[0] not in ("model", "datasets", "training", "global_config"):
            continue
        value = _ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[0]), str(node.value))
        left = _VARIABLE.search(value)
        if left is not None and not os.path.exists(expand_home(value)):
            problems.append(Problem(node.report_place, dotted(path), "variable", _message(left[0].lstrip("/"))))
        elif _is_data(path) or path == ("training", "init_from"):
            value = _beside(value, node, root, path)
        if value != node.value:
            root = root.edited(path, lambda old, value=value: old and replace(old, value=value))  # type: ignore[misc]
    return root, problems


def texts_in(node: Node | None, path: Location) -> Iterator[tuple[Location, Node]]:
    """Yield the strings at and below a node, with their paths."""
    if node is None:
        return
    if isinstance(node.value, dict | list):
        parts = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
        for key, part in parts:
            yield from texts_in(part, (*path, key))
    elif isinstance(node.value, str):
        yield path, node


def _message(variable: str) -> str:
    found = _ENVIRONMENT.fullmatch(variable)
    if found is not None:
        return f"the environment variable {found[1]} is not set; set it, or write the path itself"
    name = re.sub(r"^.*[:.]", "", variable.strip("${}%"))
    return (
        f"{variable!r} is not filled in; write ${{env:{name}}} for an environment variable, or the path itself; ~ is the "
        "home folder"
    )


def _is_data(path: Location) -> bool:
    return path[0] == "datasets" and any(path[2 : 2 + len(keys)] == keys for keys in DATA_PATHS)


def _beside(value: str, node: Node, root: Node, path: Location) -> str:
    """Return the full path of a data file beside its YAML file, the value as given if it is found elsewhere or nowhere."""
    beside = Path(os.path.abspath(node.place.file)).parent / value
    if os.path.isabs(expand_home(value)) or not node.place.line or not _exists(beside):
        return value
    folder, name = (root.at(where) for where in (("global_config", "corpus_dir"), (*path[:2], "name")))
    corpora = expand_home(str(folder.value) if folder else "./data")
    places = (Path(value), corpora / str(name.value if name else "") / value, corpora / value)
    return value if any(map(_exists, places)) else str(beside)


def _exists(path: Path) -> bool:
    return os.path.exists(path) or bool(glob.glob(str(path), recursive=True))


# Missing files: notes, not errors, since data may lie on another machine.


_SHARDS = (("shards",),)
"""Keys of a data set that is read from shards: its other files are not read."""


def find_missing_files(experiment: "Experiment") -> list[Problem]:
    """Return a note for each data set that names files which are in none of the folders searched."""
    notes = []
    for index, entry in enumerate(experiment.config.datasets or ()):
        keys = DATA_PATHS if getattr(entry, "shards", None) is None else _SHARDS
        paths = [("datasets", index, *key) for key in keys]
        named = [found for path in paths for found in texts_in(experiment.root.at(path), path)]
        absent = [(path, node) for path, node in named if not _is_there(str(node.value), entry)]
        if absent:
            (path, node), names = absent[0], [str(node.value) for _, node in absent]
            notes.append(
                Problem(node.report_place, dotted(path), "absent_file", _describe_absent(names, entry, node.place))
            )
    return notes


def _is_there(name: str, entry: DatasetConfig) -> bool:
    """Return True if a file exists; a pattern counts as existing, since searching may mean reading a whole disk."""
    return glob.has_magic(name) or any(os.path.exists(place) for place in places_of(name, entry))


def _describe_absent(names: list[str], entry: DatasetConfig, place: Place) -> str:
    folders = [str(candidate.parent) for candidate in places_of(names[0], entry)]
    folders += [os.path.dirname(os.path.abspath(place.file))] if place.line else []  # none for an option
    looked = ", ".join(dict.fromkeys(folders))
    more = (
        f" and {len(names) - 1} more files are" if len(names) > 2 else f" and {names[1]!r} are" if names[1:] else " is"
    )
    return f"{names[0]!r}{more} not there yet; looked for in {looked}"
