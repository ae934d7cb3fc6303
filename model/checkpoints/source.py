"""Where a published model comes from: a folder, a file, or a name on the hub with a revision; and what its files say.

Only data is read: `*.py` files and `auto_map` are never used.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from model.checkpoints.errors import PublishedError
from model.hub import find_offline_reason, is_folder_path
from model_factory.yaml_config.paths import expand_home

_PATTERNS = ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.model", "README.md")
_PICKLES = ("pytorch_model*.bin",)
CONFIG_FILE = "config.json"
_HYDRA = (".hydra/config.yaml", "../.hydra/config.yaml", "config.yaml", "../config.yaml")
_SHA = 40


@dataclass(frozen=True)
class Source:
    """Files of a published model: `place` is its folder or weights file, `config` the settings that its files state."""

    name: str
    """As it was given."""
    place: Path
    revision: str | None = None
    """Commit on the hub, 40 digits; None for a folder."""
    is_pinned: bool = True
    """False for a name on the hub without a commit."""
    given_settings: Path | None = None
    """Config file that the user named."""
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self.place if self.place.is_dir() else self.place.parent

    @cached_property
    def config_file(self) -> Path | None:
        """File with the settings: the given one, config.json, or Hydra's of a local checkpoint; None without one."""
        if self.given_settings is not None:
            return self.given_settings
        places = (CONFIG_FILE, *_HYDRA) if self.place.is_dir() else (*_HYDRA, CONFIG_FILE)
        return next((self.folder / name for name in places if (self.folder / name).is_file()), None)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of the config file, empty without one; raise PublishedError if it is no mapping."""
        if self.config_file is None:
            return {}
        return read_mapping(self.config_file)

    @cached_property
    def licence(self) -> str | None:
        """Licence that the front matter of README.md states; None without one."""
        path = self.folder / "README.md"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if not text.startswith("---"):
            return None
        try:
            header = yaml.safe_load(text.split("---", 2)[1])
        except yaml.YAMLError:
            return None
        found = header.get("license") if isinstance(header, dict) else None
        return str(found) if found else None


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON or YAML file; raise PublishedError for a file without one."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_PlainLoader)
    except OSError as error:
        raise PublishedError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise PublishedError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(content, dict):
        raise PublishedError(f"{path}: holds no mapping of settings")
    return content


class _PlainLoader(yaml.SafeLoader):
    """Safe loader that reads unknown tags, as Hydra's files may have, as nothing."""


_PlainLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def find_source(name: str, *, settings: str | None = None, allow_pickle: bool = False) -> Source:
    """Find a folder or a file; else download `owner/name[@revision]` from the hub, or take it from the cache.

    Raises PublishedError for a path that is not there, and within two seconds where the hub cannot be reached.
    """
    given = None if settings is None else expand_home(settings)
    place = expand_home(name)
    if place.exists():
        return Source(name, place, given_settings=given)
    repository, _, revision = name.partition("@")
    if is_folder_path(name) or repository.count("/") != 1:
        raise PublishedError(f"{name}: there is no such folder or file, and names on the hub are owner/name[@revision]")
    folder = _download(repository, revision or None, (*_PATTERNS, *(_PICKLES if allow_pickle else ())))
    commit = folder.name if len(folder.name) == _SHA else None
    return Source(name, folder, commit, is_pinned=revision == commit, given_settings=given)


def _download(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Return the folder of a snapshot in the hub's cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download

    load: Callable[..., str] = snapshot_download
    options: Mapping[str, Any] = {"revision": revision, "allow_patterns": list(patterns)}
    reason = find_offline_reason()
    if reason is not None:
        try:
            return Path(load(name, local_files_only=True, **options))
        except Exception as error:  # not in the cache; the library raises several types
            raise PublishedError(
                f"{name} is neither a folder nor in the hub's cache, and the hub cannot be reached ({reason}); "
                "download it where there is a network and give its folder"
            ) from error
    try:
        return Path(load(name, **options))
    except Exception as error:  # many types, with long texts
        text = " ".join(str(error).split())[:300]
        raise PublishedError(f"{name}: cannot be downloaded: {type(error).__name__}: {text}") from error
