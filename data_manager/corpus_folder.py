"""Where a speech corpus lies on disk, and fetching it where it does not."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_manager.dataset_types import LhotseDatasetConfig
from data_manager.errors import DataError, not_found
from data_manager.lhotse_recipes import TARGETS, RecipeSignature
from data_manager.network import unreachable
from data_manager.text_files import full_path


@dataclass(frozen=True)
class Layout:
    """Folders below `corpus_dir` that may be the corpus, the likeliest first, and files that show that one is."""

    folders: tuple[str, ...]
    marks: tuple[str, ...]


_LAYOUTS = {
    "librispeech": Layout(("librispeech/LibriSpeech", "librispeech", "LibriSpeech"), ("*/*/*/*.trans.txt",)),
    "timit": Layout(("timit", "timit/timit", "timit/TIMIT"), ("data/TRAIN", "data/TEST")),
    "yesno": Layout(("yesno/waves_yesno", "yesno", "waves_yesno"), ("*.wav",)),
}


_ARCHIVES = (".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".part")


def candidates(name: str, corpus_dir: str) -> list[Path]:
    """Folders in which the corpus `name` is looked for, in that order."""
    base = full_path(corpus_dir)
    if name in _LAYOUTS:
        return [base / folder for folder in _LAYOUTS[name].folders]
    root = base / name
    # lhotse's downloaders unpack into a folder of the archive's name and leave a mark there
    unpacked = sorted(mark.parent for mark in root.glob("*/.completed"))
    return [*unpacked, root]


def find_corpus(name: str, corpus_dir: str) -> Path | None:
    """The folder of the corpus, or None where it is not there."""
    marks = _LAYOUTS[name].marks if name in _LAYOUTS else ("*",)
    for folder in candidates(name, corpus_dir):
        # an archive alone is what an interrupted download leaves
        if any(path.suffix not in _ARCHIVES for mark in marks for path in folder.glob(mark)):
            return folder
    return None


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
    _download(config, recipe, missing)
    found = find_corpus(config.name, shared.corpus_dir)
    if found is None:
        raise _absent(config, None, (), f"lhotse's {recipe.name} downloader ended without leaving it there")
    return found


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
    call_recipe(config.name, recipe, recipe.download, arguments)
