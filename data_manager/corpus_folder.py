"""Locate a speech corpus on disk."""

from dataclasses import dataclass
from pathlib import Path

from data_manager.text_files import full_path

DOWNLOADING = ".downloading"
"""Marker file in corpus_dir/NAME during a download; if it remains, the corpus is incomplete."""


@dataclass(frozen=True)
class Layout:
    """Candidate folders of a corpus below `corpus_dir`, likeliest first, and glob patterns of files that identify it."""

    folders: tuple[str, ...]
    marks: tuple[str, ...]


_LAYOUTS = {
    "librispeech": Layout(("librispeech/LibriSpeech", "librispeech", "LibriSpeech"), ("*/*/*/*.trans.txt",)),
    "timit": Layout(("timit", "timit/timit", "timit/TIMIT"), ("data/TRAIN", "data/TEST")),
    "yesno": Layout(("yesno/waves_yesno", "yesno", "waves_yesno"), ("*.wav",)),
}


_ARCHIVES = (".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".part")


def candidate_folders(name: str, corpus_dir: str) -> list[Path]:
    """List the folders to search for the corpus `name`, in order."""
    base = full_path(corpus_dir)
    if name in _LAYOUTS:
        return [base / folder for folder in _LAYOUTS[name].folders]
    root = base / name
    # lhotse's downloaders unpack into a folder named after the archive and leave a marker file there
    unpacked = sorted(mark.parent for mark in root.glob("*/.completed"))
    return [*unpacked, root]


def download_marker(name: str, corpus_dir: str) -> Path:
    """Return the path of the file that marks an unfinished download."""
    return full_path(corpus_dir) / name / DOWNLOADING


def find_corpus(name: str, corpus_dir: str) -> Path | None:
    """Return the corpus folder, or None if it is missing or its download was interrupted."""
    if download_marker(name, corpus_dir).exists():
        return None
    marks = _LAYOUTS[name].marks if name in _LAYOUTS else ("*",)
    for folder in candidate_folders(name, corpus_dir):
        # an interrupted download leaves only an archive
        if any(path.suffix not in _ARCHIVES for mark in marks for path in folder.glob(mark)):
            return folder
    return None
