"""Where a speech corpus lies on disk."""

from dataclasses import dataclass
from pathlib import Path

from data_manager.text_files import full_path

INTERRUPTED = ".downloading"
"""Stands in corpus_dir/NAME while a corpus is fetched; where it is left, the corpus is incomplete."""


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


def interruption(name: str, corpus_dir: str) -> Path:
    """The file that marks a download under way."""
    return full_path(corpus_dir) / name / INTERRUPTED


def find_corpus(name: str, corpus_dir: str) -> Path | None:
    """The folder of the corpus, or None where it is not there or its download was interrupted."""
    if interruption(name, corpus_dir).exists():
        return None
    marks = _LAYOUTS[name].marks if name in _LAYOUTS else ("*",)
    for folder in candidates(name, corpus_dir):
        # an archive alone is what an interrupted download leaves
        if any(path.suffix not in _ARCHIVES for mark in marks for path in folder.glob(mark)):
            return folder
    return None
