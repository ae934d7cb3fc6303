"""Download a missing speech corpus, or explain why it cannot be downloaded and what to do."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_manager.corpus_folder import candidate_folders, download_marker, find_corpus
from data_manager.errors import DataError, not_found
from data_manager.lhotse_recipes import TARGETS, RecipeSignature
from data_manager.network import unreachable
from data_manager.prepared_folder import exclusively
from data_manager.speech_types import LhotseDatasetConfig
from data_manager.text_files import full_path


def obtain_corpus(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str] = ()) -> Path:
    """Return the corpus folder; download the corpus first if it or the parts `missing` are absent, or if forced.

    Raise DataError, which lists the folders searched, the reason for not downloading, and the remedy.
    """
    shared = config.global_config
    found = find_corpus(config.name, shared.corpus_dir)
    if found is not None and not missing and not shared.force_download:
        return found
    obstacle = _find_obstacle(config, recipe)
    if obstacle:
        raise _missing_corpus_error(config, found, missing, obstacle)
    _download_locked(config, recipe, missing)
    found = find_corpus(config.name, shared.corpus_dir)
    if found is None:
        raise _missing_corpus_error(
            config, None, (), f"lhotse's {recipe.name} downloader finished, but the corpus is not there"
        )
    return found


def _download_locked(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str]) -> None:
    """Download under a file lock; a process that waited uses the other's download. Raise DataError."""
    shared = config.global_config
    target = full_path(shared.corpus_dir) / config.name
    marker = download_marker(config.name, shared.corpus_dir)
    is_forced = shared.force_download or missing
    try:
        target.mkdir(parents=True, exist_ok=True)
        with exclusively(target.with_name(f".{config.name}.lock")):
            if find_corpus(config.name, shared.corpus_dir) is None or is_forced:
                marker.touch()
                _download(config, recipe, missing)
                marker.unlink()
    except OSError as error:
        raise DataError(
            f"corpus {config.name!r} cannot be downloaded into {target}: {error.strerror or error}; set "
            "global_config.corpus_dir to a writable folder"
        ) from error


def _find_obstacle(config: LhotseDatasetConfig, recipe: RecipeSignature) -> str | None:
    """Return the reason why the corpus cannot be downloaded, or None."""
    if recipe.download is None:
        return "lhotse cannot download it: it is licensed or needs a manual download"
    required = [key for key in recipe.download.required() if key not in (*TARGETS, *config.download_params)]
    required = [key for key in required if key not in config.process_params]
    if required:
        return f"downloading it needs download_params: {{{', '.join(f'{key}: ...' for key in required)}}}"
    url = config.download_params.get("base_url") or config.download_params.get("url") or recipe.url
    reason = unreachable(url) if isinstance(url, str) else None
    return f"it cannot be downloaded from {url} ({reason})" if reason else None


def _missing_corpus_error(
    config: LhotseDatasetConfig, found: Path | None, missing: Sequence[str], obstacle: str
) -> DataError:
    remedy = (
        "Put it into one of these folders, set global_config.corpus_dir to its parent folder, or run on a machine that "
        "can download it."
    )
    marker = download_marker(config.name, config.global_config.corpus_dir)
    if marker.exists():
        return DataError(
            f"corpus {config.name!r} in {marker.parent} is incomplete, because its download was interrupted, and {obstacle}.\n"
            f"Run again on a machine that can download it; if the corpus is complete, remove {marker}."
        )
    if found is None:
        folders = candidate_folders(config.name, config.global_config.corpus_dir)
        return not_found(f"corpus {config.name!r}", folders, f"and {obstacle}.\n{remedy}")
    if missing:
        parts = sorted(path.name for path in found.iterdir() if path.is_dir())
        return DataError(
            f"corpus {config.name!r} in {found} lacks the parts {', '.join(missing)} (it has {', '.join(parts)}), and "
            f"{obstacle}.\nTo use only the existing parts, write process_params: {{dataset_parts: [{', '.join(parts)}]}}."
        )
    return DataError(
        f"corpus {config.name!r} should be downloaded again, and {obstacle}.\n"
        f"Set global_config.force_download to false to use {found}."
    )


def _download(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str]) -> None:
    """Download into corpus_dir/name with lhotse's downloader; raise DataError if it fails."""
    from data_manager.recipe_call import call_recipe

    assert recipe.download is not None
    takes = recipe.download.parameters
    target = full_path(config.global_config.corpus_dir) / config.name
    arguments: dict[str, Any] = {key: value for key, value in config.process_params.items() if key in takes}
    if missing and "dataset_parts" in takes:
        arguments["dataset_parts"] = list(missing)
    arguments |= {key: os.fspath(target) for key in TARGETS if key in takes}
    if "force_download" in takes:
        arguments["force_download"] = config.global_config.force_download
    if not missing:
        arguments |= config.download_params
    else:
        arguments |= {key: value for key, value in config.download_params.items() if key != "dataset_parts"}
    with _safe_extraction():
        call_recipe(config.name, recipe, recipe.download, arguments)


@contextmanager
def _safe_extraction() -> Iterator[None]:
    """Keep unpacked archives inside their folder, links included: lhotse checks only member names.

    Uses PEP 706's data filter, the default from Python 3.14.
    """
    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before
