"""Export of a run: write the files of a format into a new folder, and check them against the run's model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from model_factory.interop.export.backbone import find_mask_id
from model_factory.interop.export.card import find_licence, read_evaluation, write_card
from model_factory.interop.export.graph import write_torch
from model_factory.interop.export.hf_folder import write_hf
from model_factory.interop.export.onnx_file import write_onnx
from model_factory.interop.export.tokenizer import TokenizerExportError, save_tokenizer
from model_factory.interop.new_folder import new_folder

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

OWN_TOKENIZER = "model_factory_tokenizer"
"""Folder of a tokenizer that transformers has no form for, in the format of a run's."""

Facts = dict[str, str]
"""Facts to print about an export: a name and a text each."""


@dataclass
class Export:
    """An exported folder: what is in it, and notes."""

    folder: Path
    facts: Facts = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


FORMATS: dict[str, Callable[["LoadedRun", Path], Facts]] = {"hf": write_hf, "torch": write_torch, "onnx": write_onnx}


def export_run(
    run: "LoadedRun", output: Path, form: str, *, licence: str | None = None, evaluations: Sequence[Path] = ()
) -> Export:
    """Write a run in a format of `FORMATS`; the folder appears only if all its files are written and checked.

    `licence` and `evaluations`, files that `evaluate --json` wrote, go to the model card.
    Raises FolderInUseError for an output that is not empty, InputError for a model that does not fit the format, ParityError
    for files that give other outputs than the run, WriteError where they cannot be written.
    """
    licence, reports = find_licence(licence, run.folder), [read_evaluation(path, run) for path in evaluations]
    with new_folder(output) as staging:
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
        write_card(run, staging, form, facts, licence, reports)
        found.facts["licence"] = licence or "not stated"
        if licence is None:
            found.notes.append("the card states no licence: give --license ID")
    return found


def describe_size(folder: Path) -> str:
    """Return the number of files below a folder and their size for a message."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"
