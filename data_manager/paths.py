"""Find the files that a data set names: relative to the working directory, its corpus folder or the config file."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError, not_found
from model_factory.yaml_config.paths import expand_home


def places_of(path: str, config: DatasetConfig) -> Iterator[Path]:
    """Yield the candidates of a path of a data set: as given, in corpus_dir/name, in corpus_dir."""
    given = expand_home(path)
    yield full_path(given)
    if not given.is_absolute():
        corpora = full_path(config.global_config.corpus_dir)
        yield corpora / config.name / given
        yield corpora / given


def full_path(path: str | Path) -> Path:
    """Return the absolute path, with `~` and `..` resolved."""
    return Path(os.path.abspath(expand_home(path)))


def find_path(path: str, config: DatasetConfig, what: str) -> Path:
    """Return the first candidate of `path` that exists; raise DataError that lists all candidates."""
    return find_paths(path, config, what)[0]


def find_paths(path: str, config: DatasetConfig, what: str) -> list[Path]:
    """Return the files that `path` matches, sorted, if it has `*` or `?`; raise DataError like `find_path`."""
    places = list(places_of(path, config))
    for place in places:
        if os.path.exists(place):  # False, too, for a name that is too long
            if not (place.is_file() or place.is_dir()):
                raise DataError(
                    f"data set {config.name!r}: {what} {path!r} is a device or a pipe, which may never end; a data set is "
                    "read more than once, so write its content to a file"
                )
            return [place]
        matches = [full_path(match) for match in sorted(glob.glob(str(place), recursive=True))]
        if matches:
            return [match for match in matches if match.is_file()] or matches
    name = f"data set {config.name!r}: {what} {path!r}"
    raise not_found(
        name,
        places,
        "Move it to one of these paths or beside the config, or set global_config.corpus_dir to its folder.",
    )
