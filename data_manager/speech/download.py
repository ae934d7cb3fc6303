"""Download a missing speech corpus, or explain why it cannot be downloaded and what to do."""

import logging
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from data_manager.cache import exclusively
from data_manager.errors import MEND, DataError, not_found, plain
from data_manager.paths import full_path
from data_manager.progress import redirect_recipe_output
from data_manager.speech.audio import missing_decoder
from data_manager.speech.invalid_lines import InvalidLine, describe_assertion, duplicate_ids, failed_line
from data_manager.speech.locate import candidate_folders, download_marker, find_corpora, store_unpacked_folder
from data_manager.speech.recipes import OUTPUT, TARGETS, RecipeFunction, RecipeSignature, recipe_signature
from data_manager.speech.types import LhotseDatasetConfig
from data_manager.text.hub import endpoint, reason_offline, unreachable
from model_factory.yaml_config.paths import forbidden_reason


def obtain_corpus(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str] = ()) -> list[Path]:
    """Return the folders that may be the corpus, likeliest first; download it if it or parts are missing, or if forced.

    Raise DataError, which lists the folders searched, the reason for not downloading, and the remedy.
    """
    shared = config.global_config
    given = _given_parameters(config, recipe)
    found = find_corpora(recipe, shared.corpus_dir, given)
    if found and not missing and not shared.force_download:
        return found
    obstacle = _find_obstacle(config, recipe)
    if obstacle:
        raise _missing_corpus_error(config, recipe, found, missing, obstacle)
    notes: list[str] = []
    _download_locked(config, recipe, missing, notes)
    found = find_corpora(recipe, shared.corpus_dir, given)
    if not found:
        finished = f"lhotse's {recipe.name} downloader finished, but the corpus is not there"
        raise _missing_corpus_error(config, recipe, [], (), ": ".join([finished, *notes[:3]]))
    return found


def _given_parameters(config: LhotseDatasetConfig, recipe: RecipeSignature) -> dict[str, Any]:
    """Return the parameters of the downloader that the config sets; those of `prepare` count if it has them too."""
    assert recipe.download is not None or not config.download_params
    takes = recipe.download.parameters if recipe.download else {}
    shared = {key: value for key, value in config.process_params.items() if key in takes and value != "auto"}
    return shared | config.download_params


def _download_locked(
    config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str], notes: list[str]
) -> None:
    """Download under a file lock; a process that waited uses the other's download. Raise DataError."""
    shared = config.global_config
    target = full_path(shared.corpus_dir) / config.name
    marker = download_marker(config.name, shared.corpus_dir)
    is_forced = shared.force_download or missing
    try:
        target.mkdir(parents=True, exist_ok=True)
        with exclusively(target.with_name(f".{config.name}.lock")):
            if is_forced or not find_corpora(recipe, shared.corpus_dir, _given_parameters(config, recipe)):
                marker.touch()
                store_unpacked_folder(target, _download(config, recipe, missing, notes))
                marker.unlink()
    except OSError as error:
        raise DataError(
            f"corpus {config.name!r} cannot be downloaded into {target}: {error.strerror or error}; set "
            "global_config.corpus_dir to a writable folder"
        ) from error


def _find_obstacle(config: LhotseDatasetConfig, recipe: RecipeSignature) -> str | None:
    """Return the reason why the corpus cannot be downloaded, or None."""
    if (forbidden := forbidden_reason()) is not None:
        return forbidden
    if recipe.download is None:
        return "lhotse cannot download it: it is licensed or needs a manual download"
    known = (*TARGETS, *config.download_params, *config.process_params)
    required = [key for key in recipe.download.required() if key not in known]
    if required:
        return f"downloading it needs download_params: {{{', '.join(f'{key}: ...' for key in required)}}}"
    if recipe.uses_hub and (offline := reason_offline()) is not None:
        return f"it cannot be downloaded from {endpoint()} ({offline})"
    if recipe.uses_hub:
        return None
    url = config.download_params.get("base_url") or config.download_params.get("url") or recipe.url
    reason = unreachable(url) if isinstance(url, str) else None
    return f"it cannot be downloaded from {url} ({reason})" if reason else None


def _missing_corpus_error(
    config: LhotseDatasetConfig, recipe: RecipeSignature, found: list[Path], missing: Sequence[str], obstacle: str
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
    if not found:
        folders = candidate_folders(recipe, config.global_config.corpus_dir, _given_parameters(config, recipe))
        return not_found(f"corpus {config.name!r}", folders, f"and {obstacle}.\n{remedy}")
    if missing:
        parts = sorted(path.name for path in found[0].iterdir() if path.is_dir())
        return DataError(
            f"corpus {config.name!r} in {found[0]} lacks the parts {', '.join(missing)} (it has {', '.join(parts)}), and "
            f"{obstacle}.\nTo use only the existing parts, write process_params: {{dataset_parts: [{', '.join(parts)}]}}."
        )
    return DataError(
        f"corpus {config.name!r} should be downloaded again, and {obstacle}.\n"
        f"Set global_config.force_download to false to use {found[0]}."
    )


def _download(config: LhotseDatasetConfig, recipe: RecipeSignature, missing: Sequence[str], notes: list[str]) -> object:
    """Download into corpus_dir/name and return what lhotse's downloader returns; raise DataError if it fails."""
    assert recipe.download is not None
    takes = recipe.download.parameters
    target = full_path(config.global_config.corpus_dir) / config.name
    arguments = _given_parameters(config, recipe)
    if missing and PARTS in takes:
        arguments[PARTS] = list(missing)
    arguments |= {key: os.fspath(target) for key in TARGETS if key in takes}
    if "force_download" in takes and "force_download" not in config.download_params:
        arguments["force_download"] = config.global_config.force_download
    with _safe_extraction():
        return call_recipe(config.name, recipe, recipe.download, arguments, notes)


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


# Parts of LibriSpeech and LibriTTS: resolve the names used in a config, and find the parts on disk.


PARTS = "dataset_parts"


WITH_PARTS = ("librispeech", "libritts", "librittsr")
"""Corpora in folders of parts, of which all that are on disk are prepared by default."""


_MINI = ("dev-clean-2", "train-clean-5")


_WHOLE = (
    *("dev-clean", "dev-other", "test-clean", "test-other"),
    *("train-clean-100", "train-clean-360", "train-other-500"),
)


_PARTS_BY_NAME = {
    "mini_librispeech": _MINI,
    "librispeech": _WHOLE,
}
"""Downloader names for groups of parts; the recipe's `prepare` takes only the parts."""


def requested_parts(config: LhotseDatasetConfig) -> list[str]:
    """List the parts of LibriSpeech or LibriTTS requested in the config; an empty list means all parts on disk."""
    given = config.process_params.get(PARTS, config.download_params.get(PARTS, "auto"))
    if config.name not in WITH_PARTS or given in ("auto", "all"):
        return []
    if isinstance(given, str):
        return list(_PARTS_BY_NAME.get(given, (given,)))
    if not isinstance(given, Sequence) or not all(isinstance(part, str) for part in given):
        raise DataError(f"corpus {config.name!r}: {PARTS} must be a name or a list of names; got {given!r}")
    return list(given)


def missing_parts(config: LhotseDatasetConfig, wanted: Sequence[str]) -> list[str]:
    """List the parts that are not on disk; raise DataError for an unknown part."""
    known = [*(() if config.name != "librispeech" else _MINI), *_WHOLE]
    roots = find_corpora(recipe_signature(config.name), config.global_config.corpus_dir)
    missing = [part for part in wanted if not roots or not (roots[0] / part).is_dir()]
    for part in missing:
        if part not in known:
            raise DataError(f"corpus {config.name!r} has no part {part!r}; its parts are {', '.join(known)}")
    return missing


def find_parts(root: Path) -> list[str]:
    """List the folders with transcripts, sorted."""
    return sorted(path.name for path in root.iterdir() if next(path.glob("*/*/*.trans.t*"), None) is not None)


# Collect the warnings of lhotse's recipes, which log skipped files and continue.


class _Collector(logging.Handler):
    """Logging handler that collects warnings and adds the name of a missing file."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Store the message of one record."""
        message = record.getMessage()
        error = sys.exc_info()[1]  # prepare_timit logs "No such file or directory" without the file name
        name = getattr(error, "filename", None)
        self.found.append(f"{message}: {name}" if name and str(name) not in message else message)


@contextmanager
def collect_warnings(found: list[str]) -> Iterator[None]:
    """Collect the warnings of the root logger, which recipes use, instead of printing them."""
    root = logging.getLogger()
    before, collector = root.handlers[:], _Collector(found)
    root.handlers = [collector]
    try:
        yield
    finally:
        root.handlers = before


# Call lhotse recipe functions and convert their failures into DataErrors.


class LayoutError(DataError):
    """Error of a folder in which a recipe does not find its corpus."""


def import_lhotse() -> Any:
    """Import lhotse; raise DataError if it, or one of its undeclared dependencies, is missing."""
    try:
        import lhotse
    except ImportError as error:
        raise DataError(f"speech corpora need lhotse: {error}; pip install lhotse urllib3 soundfile") from error
    return lhotse


class InvalidLineError(DataError):
    """Error of lines that a recipe cannot read: `lines`."""

    def __init__(self, corpus: str, lines: Sequence[InvalidLine]) -> None:
        shown = "".join(f"\n  {line}" for line in lines[:10]) + ("\n  ..." if len(lines) > 10 else "")
        count = f"{len(lines):,} invalid line{'s' if len(lines) > 1 else ''}"
        super().__init__(
            f"corpus {corpus!r} has {count}:{shown}\nRepair the file, or skip such lines: on_invalid: skip"
        )
        self.lines = list(lines)


def call_recipe(
    corpus: str,
    recipe: RecipeSignature,
    function: RecipeFunction,
    arguments: Mapping[str, Any],
    notes: list[str] | None = None,
) -> Any:
    """Call a recipe's `function`; send its output to stderr and append its warnings to `notes`.

    Raise DataError for any exception: recipes fail in many ways on an unexpected folder layout. It is an
    InvalidLineError if the recipe failed at a line of a file.
    """
    import_lhotse()
    module = import_module(f"lhotse.recipes.{recipe.module}")
    try:
        with redirect_recipe_output(module), collect_warnings([] if notes is None else notes):
            return getattr(module, function.name)(**arguments)
    except Exception as error:
        raise _explain(error, corpus, function, arguments) from error


def _explain(error: Exception, corpus: str, function: RecipeFunction, arguments: Mapping[str, Any]) -> DataError:
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    failure = f"corpus {corpus!r}: {function.name}({given}) failed: {type(error).__name__}"
    if isinstance(error, DataError):
        return error
    if (missing := missing_decoder(corpus, [], error)) is not None:
        return missing
    if type(error).__name__ == "AudioLoadingError":
        return DataError(f"{failure}: {plain(error)}\n{MEND}")
    folders = [full_path(value) for key, value in arguments.items() if key != OUTPUT and isinstance(value, str)]
    line = failed_line(error, [folder for folder in folders if folder.is_dir()])
    if line is not None:
        return InvalidLineError(corpus, [line])
    twice = duplicate_ids(error)
    if twice:
        shown = ", ".join(twice[:3]) + (", ..." if len(twice) > 3 else "")
        return DataError(f"{failure}: {plain(error)} ({shown})\nRemove or rename one of the two recordings.")
    detail = plain(error) or describe_assertion(error)
    return LayoutError(
        f"{failure}: {detail}\nCheck that the corpus is complete and has the folder layout of lhotse's downloader."
    )
