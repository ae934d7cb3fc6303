"""Audio of cuts to frames, by lhotse's own extractors, which compute what Kaldi does."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from data_manager.errors import MEND, DataError, plain
from data_manager.speech_settings import FeaturesConfig


class FrameReader:
    """Frames [T, F] float32 of a cut: those stored with it, else computed from its audio. Can be pickled."""

    def __init__(self, settings: FeaturesConfig) -> None:
        self.settings = settings
        self._extractors: dict[int, Any] = {}

    def __call__(self, cut: Any) -> Tensor:
        """Frames of one cut; several channels are averaged. Raises DataError, which names the file."""
        if cut.has_features:
            return self._stored(cut)
        samples = read_audio(cut)
        try:
            with _own_noise(cut.id) if self.settings.dither else nullcontext():
                frames = self.extractor(cut.sampling_rate).extract(samples, cut.sampling_rate)
        except Exception as error:  # lhotse checks little of its settings, and fails inside the computation
            raise DataError(
                f"{self.settings.type} features of cut {cut.id} ({cut.duration} s): {plain(error)}"
            ) from error
        return torch.as_tensor(frames).float()

    def extractor(self, sampling_rate: int) -> Any:
        """lhotse's extractor for audio of one sampling rate, in Hz."""
        if sampling_rate not in self._extractors:
            self._extractors[sampling_rate] = make_extractor(self.settings, sampling_rate)
        return self._extractors[sampling_rate]

    def _stored(self, cut: Any) -> Tensor:
        from lhotse.features.io import get_reader

        try:
            if cut.num_channels == 1:
                return torch.as_tensor(cut.load_features()).float()
            stored = cut.features  # channels were averaged before, and lhotse would look for each of them
            return torch.as_tensor(
                get_reader(stored.storage_type)(stored.storage_path).read(stored.storage_key)
            ).float()
        except Exception as error:  # lilcom and numpy each have their own for a damaged file
            place = cut.features.storage_path
            raise DataError(
                f"features of cut {cut.id} cannot be read from {place}: {plain(error)}; remove that folder to have "
                "them computed again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Workers make their own extractors."""
        return {"settings": self.settings, "_extractors": {}}


@contextmanager
def _own_noise(name: str) -> Iterator[None]:
    """Random numbers that depend on a name alone: dither is the same whoever computes it, and whenever."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


def read_audio(cut: Any) -> Any:
    """Samples [1, N] of a cut or a recording, channels averaged; raises DataError, which names the file."""
    try:
        return cut.load_audio().mean(axis=0, keepdims=True)
    except Exception as error:  # whatever the audio library raises for a broken file
        told = plain(error).rpartition(" failed. ")[2]  # in front of it the file is named again
        raise DataError(f"audio of {cut.id} cannot be read from {audio_files(cut)}: {told}\n{MEND}") from error


def audio_files(cut: Any) -> str:
    """Paths of the audio of a cut or a recording."""
    recording = getattr(cut, "recording", cut)
    sources = getattr(recording, "sources", None)
    return ", ".join(str(source.source) for source in sources) if sources else "its tracks"


def make_extractor(settings: FeaturesConfig, sampling_rate: int) -> Any:
    """lhotse's Fbank, Mfcc or Spectrogram for audio of one sampling rate, in Hz."""
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
