"""Export of a run: write the files of a format into a new folder, and check them against the run's model."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from model_factory.interop.export.backbone import find_mask_id
from model_factory.interop.export.graph import write_torch
from model_factory.interop.export.hf_folder import write_hf
from model_factory.interop.export.onnx_file import write_onnx
from model_factory.interop.export.tokenizer import TokenizerExportError, save_tokenizer
from model_factory.training.errors import FolderInUseError, WriteError
from model_factory.training.run.atomic_io import put_in_place

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

OWN_TOKENIZER = "model_factory_tokenizer"
"""Folder of a tokenizer that transformers has no form for, in the format of a run's."""

Facts = dict[str, str]
"""What is printed about an export: a name and a text."""


@dataclass
class Export:
    """An exported folder: what is in it, and notes."""

    folder: Path
    facts: Facts = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


FORMATS: dict[str, Callable[["LoadedRun", Path], Facts]] = {"hf": write_hf, "torch": write_torch, "onnx": write_onnx}


def export_run(run: "LoadedRun", output: Path, form: str) -> Export:
    """Write a run in a format of `FORMATS`; the folder appears only if all its files are written and checked.

    Raises FolderInUseError for an output that is not empty, InputError for a model that does not fit the format, ParityError
    for files that give other outputs than the run, WriteError where they cannot be written.
    """
    with _new_folder(output) as staging:
        facts = FORMATS[form](run, staging)
        found = Export(output, facts, list(run.notes))
        if run.tokenizer is not None:
            try:
                save_tokenizer(run.tokenizer, staging, find_mask_id(run.model))
                found.facts["tokenizer"] = f"{run.tokenizer.vocab_size:,} tokens, as a fast tokenizer of transformers"
            except TokenizerExportError as error:
                run.tokenizer.save(staging / OWN_TOKENIZER)
                found.facts["tokenizer"] = f"{OWN_TOKENIZER}/, for data_manager.tokenizers.load.load_tokenizer"
                found.notes.append(f"the tokenizer is kept in our own format: {error}")
    return found


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `output`, renamed to it if the block succeeds, and removed if not."""
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise FolderInUseError(f"{output} is not empty; give a folder that is not there yet")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        staging.chmod(0o755)
    except OSError as error:
        raise WriteError(f"{output} cannot be written: {error}") from error
    try:
        yield staging
        if output.is_dir():
            output.rmdir()
        put_in_place(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def describe_size(folder: Path) -> str:
    """Return the number of files below a folder and their size for a message."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"
