"""Cache of what this process has loaded, by config: asked for again, it is at hand, and its notes are logged once."""

import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from data_manager.dataset_types import DatasetConfig
from model_factory.yaml_config.errors import escape_controls

Loaded = TypeVar("Loaded")


class LoadedCache(Generic[Loaded]):
    """Latest result of loading each config, and the notes that were logged about it."""

    def __init__(self, key_of: Callable[[DatasetConfig], str], log: logging.Logger) -> None:
        self._key_of, self._log = key_of, log
        self._found: dict[str, Loaded] = {}
        self._logged: dict[str, set[str]] = {}

    def get(self, config: DatasetConfig) -> Loaded | None:
        """Return what was loaded for a config; None if nothing was."""
        return self._found.get(self._key_of(config))

    def store(self, config: DatasetConfig, loaded: Loaded, notes: Iterable[str]) -> None:
        """Keep what was loaded, and log the notes that were not logged when it was loaded last."""
        key, given = self._key_of(config), list(notes)
        for note in given:
            if note not in self._logged.get(key, ()):
                self._log.warning("%s", escape_controls(f"{config.name}: {note}"))
        self._found[key], self._logged[key] = loaded, set(given)

    def clear(self) -> None:
        """Forget everything, as a new process would."""
        self._found.clear()
        self._logged.clear()
