"""Find missing files in the paths of an experiment.

They are notes, not errors, since data may lie on another machine.
"""

import glob
import os

from data_manager.dataset_types import DatasetConfig
from data_manager.paths import places_of
from model_factory.experiment.config import Experiment
from model_factory.experiment.path_values import DATA_PATHS, texts_in
from model_factory.yaml_config.errors import Place, Problem
from model_factory.yaml_config.node import dotted

_SHARDS = (("shards",),)
"""Keys of a data set that is read from shards: its other files are not read."""


def find_missing_files(experiment: Experiment) -> list[Problem]:
    """Return a note for each data set that names files which are in none of the folders searched."""
    notes = []
    for index, entry in enumerate(experiment.config.datasets or ()):
        keys = DATA_PATHS if getattr(entry, "shards", None) is None else _SHARDS
        paths = [("datasets", index, *key) for key in keys]
        named = [found for path in paths for found in texts_in(experiment.root.at(path), path)]
        absent = [(path, node) for path, node in named if not _exists(str(node.value), entry)]
        if absent:
            (path, node), names = absent[0], [str(node.value) for _, node in absent]
            notes.append(Problem(node.report_place, dotted(path), "absent_file", _message(names, entry, node.place)))
    return notes


def _exists(name: str, entry: DatasetConfig) -> bool:
    """Return True if a file exists; a pattern counts as existing, since searching may mean reading a whole disk."""
    return glob.has_magic(name) or any(os.path.exists(place) for place in places_of(name, entry))


def _message(names: list[str], entry: DatasetConfig, place: Place) -> str:
    folders = [str(candidate.parent) for candidate in places_of(names[0], entry)]
    folders += [os.path.dirname(os.path.abspath(place.file))] if place.line else []  # none for an option
    looked = ", ".join(dict.fromkeys(folders))
    more = (
        f" and {len(names) - 1} more files are" if len(names) > 2 else f" and {names[1]!r} are" if names[1:] else " is"
    )
    return f"{names[0]!r}{more} not there yet; looked for in {looked}"
