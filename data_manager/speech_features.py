"""Compute frames from the audio of cuts with lhotse's extractors, which match Kaldi's."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from data_manager.errors import MEND, DataError, plain
from data_manager.speech_settings import FeaturesConfig


class FrameReader:
    """Reader of a cut's frames [T, F] float32: stored ones, else computed from its audio. Can be pickled."""

    def __init__(self, settings: FeaturesConfig) -> None:
        self.settings = settings
        self._extractors: dict[int, Any] = {}

    def __call__(self, cut: Any) -> Tensor:
        """Return the frames of one cut, with channels averaged. Raise DataError, which names the file."""
        if cut.has_features:
            return self._read_stored(cut)
        samples = read_audio(cut)
        try:
            with _seeded_dither(cut.id) if self.settings.dither else nullcontext():
                frames = self.extractor(cut.sampling_rate).extract(samples, cut.sampling_rate)
        except Exception as error:  # lhotse hardly validates its settings and fails in the computation
            raise DataError(
                f"{self.settings.type} features of cut {cut.id} ({cut.duration} s): {plain(error)}"
            ) from error
        return torch.as_tensor(frames).float()

    def extractor(self, sampling_rate: int) -> Any:
        """Return lhotse's extractor for a sampling rate in Hz; cached."""
        if sampling_rate not in self._extractors:
            self._extractors[sampling_rate] = make_extractor(self.settings, sampling_rate)
        return self._extractors[sampling_rate]

    def _read_stored(self, cut: Any) -> Tensor:
        from lhotse.features.io import get_reader

        try:
            if cut.num_channels == 1:
                return torch.as_tensor(cut.load_features()).float()
            stored = cut.features  # channels are already averaged; lhotse would look for each of them
            return torch.as_tensor(
                get_reader(stored.storage_type)(stored.storage_path).read(stored.storage_key)
            ).float()
        except Exception as error:  # lilcom and numpy raise different errors for a damaged file
            path = cut.features.storage_path
            raise DataError(
                f"features of cut {cut.id} cannot be read from {path}: {plain(error)}; remove that folder to "
                "recompute them"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the extractors: each worker builds them."""
        return {"settings": self.settings, "_extractors": {}}


@contextmanager
def _seeded_dither(name: str) -> Iterator[None]:
    """Seed the random numbers by a cut's id, so that its dither is reproducible in every process and epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


def read_audio(cut: Any) -> Any:
    """Read the samples [1, N] of a cut or recording, channels averaged; raise DataError, which names the file."""
    try:
        return cut.load_audio().mean(axis=0, keepdims=True)
    except Exception as error:  # audio libraries raise many types for a damaged file
        reason = plain(error).rpartition(" failed. ")[2]  # the text before it repeats the file name
        raise DataError(f"audio of {cut.id} cannot be read from {audio_files(cut)}: {reason}\n{MEND}") from error


def audio_files(cut: Any) -> str:
    """Return the audio paths of a cut or recording, joined by commas."""
    recording = getattr(cut, "recording", cut)
    sources = getattr(recording, "sources", None)
    return ", ".join(str(source.source) for source in sources) if sources else "its tracks"


def make_extractor(settings: FeaturesConfig, sampling_rate: int) -> Any:
    """Build lhotse's Fbank, Mfcc or Spectrogram for a sampling rate in Hz."""
    import lhotse

    common = {
        "sampling_rate": sampling_rate,
        "frame_length": settings.frame_length,
        "frame_shift": settings.frame_shift,
        "dither": settings.dither,
    }
    if settings.type == "spectrogram":
        return lhotse.Spectrogram(lhotse.SpectrogramConfig(**common))
    mel = {"num_filters": settings.num_mel_bins, "low_freq": settings.low_freq, "high_freq": settings.high_freq}
    if settings.type == "fbank":
        return lhotse.Fbank(lhotse.FbankConfig(**common, **mel))
    return lhotse.Mfcc(lhotse.MfccConfig(**common, **mel, num_ceps=settings.num_ceps))
