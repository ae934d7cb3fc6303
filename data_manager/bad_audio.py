"""`bad_audio: drop`: prepare a corpus with damaged audio files, and list these."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from data_manager.errors import DataError

_SECONDS, _RATE = 3600.0, 16_000


@contextmanager
def tolerate_bad_headers() -> Iterator[None]:
    """Let recipes continue at a file with an unreadable header, as if it had an hour of audio.

    A recipe would stop at the first such file. `drop_unreadable` removes it later, because its audio is unreadable too.
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


def drop_unreadable(cuts: Any, split: str, notes: list[str]) -> list[Any]:
    """Return the cuts whose audio can be read completely; log the others in `notes`."""
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
