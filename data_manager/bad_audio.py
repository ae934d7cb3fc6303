"""`bad_audio: drop`: a corpus is prepared although some of its files are damaged, and these are named."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from data_manager.errors import DataError

_SECONDS, _RATE = 3600.0, 16_000


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let recipes go on at a file without a readable header, as if it held an hour of audio.

    A recipe would end at the first such file; `readable` leaves it out afterwards, as its audio cannot be read either.
    """
    from lhotse.audio.utils import AudioLoadingError  # type: ignore[attr-defined,unused-ignore]

    module: Any = import_module("lhotse.audio.recording")
    info = module.info

    def tolerant(path: Any, **settings: Any) -> Any:
        try:
            return info(path, **settings)
        except AudioLoadingError:
            from lhotse.audio.backend import LibsndfileCompatibleAudioInfo

            return LibsndfileCompatibleAudioInfo(1, int(_SECONDS * _RATE), _RATE, _SECONDS)

    try:
        module.info = tolerant
        yield
    finally:
        module.info = info


def readable(cuts: Any, split: str, notes: list[str]) -> list[Any]:
    """The cuts whose audio can be read from end to end; the others are noted."""
    from data_manager.progress import progress
    from data_manager.speech_features import read_audio

    kept = []
    for cut in progress(cuts, f"reading {split}"):
        try:
            read_audio(cut)
        except DataError as error:
            notes.append(f"{split}: {str(error).partition(chr(10))[0]}")
        else:
            kept.append(cut)
    return kept
