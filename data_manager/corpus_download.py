"""Fetching a speech corpus that is not on disk, or saying why it cannot be fetched and what to do."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_manager.corpus_folder import candidates, find_corpus, interruption
from data_manager.errors import DataError, not_found
from data_manager.lhotse_recipes import TARGETS, RecipeSignature
from data_manager.network import unreachable
from data_manager.prepared_folder import exclusively
from data_manager.speech_types import LhotseDatasetConfig
from data_manager.text_files import full_path


def obtain_corpus(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str] = ()) -> Path:
    """The folder of the corpus, downloaded where it is missing, lacks the parts `missing`, or has to be fetched again.

    Raises DataError, which says where it was looked for, why it was not fetched, and what to do.
    """
    shared = config.global_config
    found = find_corpus(config.name, shared.corpus_dir)
    if found is not None and not missing and not shared.force_download:
        return found
    obstacle = _obstacle(config, recipe)
    if obstacle:
        raise _absent(config, found, missing, obstacle)
    _download_alone(config, recipe, missing)
    found = find_corpus(config.name, shared.corpus_dir)
    if found is None:
        raise _absent(config, None, (), f"lhotse's {recipe.name} downloader ended without leaving it there")
    return found


def _download_alone(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str]) -> None:
    """Download while no other process does; one that waited uses what the other fetched. Raises DataError."""
    shared = config.global_config
    target = full_path(shared.corpus_dir) / config.name
    mark = interruption(config.name, shared.corpus_dir)
    waited_for = shared.force_download or missing
    try:
        target.mkdir(parents=True, exist_ok=True)
        with exclusively(target.with_name(f".{config.name}.lock")):
            if find_corpus(config.name, shared.corpus_dir) is None or waited_for:
                mark.touch()
                _download(config, recipe, missing)
                mark.unlink()
    except OSError as error:
        raise DataError(
            f"corpus {config.name!r} cannot be downloaded into {target}: {error.strerror or error}; set "
            "global_config.corpus_dir to a folder that can be written"
        ) from error


def _obstacle(config: LhotseDatasetConfig, recipe: RecipeSignature) -> str | None:
    """Why the corpus cannot be downloaded, or None."""
    if recipe.download is None:
        return "lhotse cannot download it: it is licensed, or has to be fetched by hand"
    required = [key for key in recipe.download.required() if key not in (*TARGETS, *config.download_params)]
    required = [key for key in required if key not in config.process_params]
    if required:
        return f"downloading it needs download_params: {{{', '.join(f'{key}: ...' for key in required)}}}"
    url = config.download_params.get("base_url") or config.download_params.get("url") or recipe.url
    reason = unreachable(url) if isinstance(url, str) else None
    return f"it cannot be downloaded from {url} ({reason})" if reason else None


def _absent(config: LhotseDatasetConfig, found: Path | None, missing: Sequence[str], obstacle: str) -> DataError:
    where = "Put it into one of these folders, set global_config.corpus_dir to where it is, or run where it can be had."
    mark = interruption(config.name, config.global_config.corpus_dir)
    if mark.exists():
        return DataError(
            f"corpus {config.name!r} in {mark.parent} is incomplete, as its download was interrupted, and {obstacle}.\n"
            f"Run again where it can be had; if it is complete after all, remove {mark}."
        )
    if found is None:
        places = candidates(config.name, config.global_config.corpus_dir)
        return not_found(f"corpus {config.name!r}", places, f"and {obstacle}.\n{where}")
    if missing:
        parts = sorted(path.name for path in found.iterdir() if path.is_dir())
        return DataError(
            f"corpus {config.name!r} in {found} lacks the parts {', '.join(missing)} (it has {', '.join(parts)}), and "
            f"{obstacle}.\nFor what is there write process_params: {{dataset_parts: [{', '.join(parts)}]}}."
        )
    return DataError(
        f"corpus {config.name!r} is to be downloaded again, and {obstacle}.\n"
        f"Set global_config.force_download to false to use what is in {found}."
    )


def _download(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str]) -> None:
    """Call lhotse's downloader into corpus_dir/name; raises DataError for whatever goes wrong there."""
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
    with _members_stay_inside():
        call_recipe(config.name, recipe, recipe.download, arguments)


@contextmanager
def _members_stay_inside() -> Iterator[None]:
    """Archives that lhotse unpacks write nothing outside their folder, by links neither: it looks at names alone.

    PEP 706's filter, which Python 3.14 has by default.
    """
    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before
