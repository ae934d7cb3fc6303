"""Parts of LibriSpeech: resolve the names used in a config, and find the parts on disk."""

from collections.abc import Sequence
from pathlib import Path

from data_manager.corpus_folder import find_corpus
from data_manager.errors import DataError
from data_manager.speech_types import LhotseDatasetConfig

PARTS = "dataset_parts"
_MINI = ("dev-clean-2", "train-clean-5")
_PARTS_BY_NAME = {
    "mini_librispeech": _MINI,
    "librispeech": (
        *("dev-clean", "dev-other", "test-clean", "test-other"),
        *("train-clean-100", "train-clean-360", "train-other-500"),
    ),
}
"""Downloader names for groups of parts; the recipe's `prepare` takes only the parts."""


def requested_parts(config: LhotseDatasetConfig) -> list[str]:
    """List the LibriSpeech parts requested in the config; an empty list means all parts on disk."""
    given = config.process_params.get(PARTS, config.download_params.get(PARTS, "auto"))
    if config.name != "librispeech" or given == "auto":
        return []
    if isinstance(given, str):
        return list(_PARTS_BY_NAME.get(given, (given,)))
    if not isinstance(given, Sequence) or not all(isinstance(part, str) for part in given):
        raise DataError(f"corpus {config.name!r}: {PARTS} must be a name or a list of names; got {given!r}")
    return list(given)


def missing_parts(config: LhotseDatasetConfig, wanted: Sequence[str]) -> list[str]:
    """List the parts that are not on disk; raise DataError for an unknown part."""
    known = [part for parts in _PARTS_BY_NAME.values() for part in parts]
    root = find_corpus(config.name, config.global_config.corpus_dir)
    missing = [part for part in wanted if root is None or not (root / part).is_dir()]
    for part in missing:
        if part not in known:
            raise DataError(f"corpus {config.name!r} has no part {part!r}; its parts are {', '.join(known)}")
    return missing


def find_parts(root: Path) -> list[str]:
    """List the folders with transcripts, sorted."""
    return sorted(path.name for path in root.iterdir() if next(path.glob("*/*/*.trans.txt"), None) is not None)
