"""Compute frames from the audio of cuts with lhotse's extractors, which match Kaldi's."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor

from data_manager.errors import MEND, DataError, plain
from data_manager.progress import progress
from data_manager.speech.manifests import load_prepared_cuts, write_cuts
from data_manager.speech.types import LhotseDatasetConfig
from data_manager.speech_settings import FeaturesConfig

_COMMON = (
    *("frame_length", "frame_shift", "snip_edges", "window_type", "preemph_coeff", "remove_dc_offset"),
    *("round_to_power_of_two", "use_energy", "energy_floor", "dither"),
)
"""Settings that lhotse's three config types have under the same name."""


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
    """Build lhotse's Fbank, Mfcc or Spectrogram for a sampling rate in Hz; raise DataError for an odd frame."""
    import lhotse

    problem = settings.fft_problem(sampling_rate)
    if problem is not None:
        raise DataError(f"{problem} ({settings.frame_length} s at {sampling_rate} Hz)")
    common = {"sampling_rate": sampling_rate, **{key: getattr(settings, key) for key in _COMMON}}
    mel = {"num_filters": settings.num_mel_bins, "low_freq": settings.low_freq, "high_freq": settings.high_freq}
    cepstral = {"num_ceps": settings.num_ceps, "cepstral_lifter": settings.cepstral_lifter}
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # lhotse doubts snip_edges, with which features here have their own length
        if settings.type == "spectrogram":
            return lhotse.Spectrogram(lhotse.SpectrogramConfig(**common))
        if settings.type == "fbank":
            return lhotse.Fbank(lhotse.FbankConfig(**common, **mel))
        extractor = lhotse.Mfcc(lhotse.MfccConfig(**common, **mel, **cepstral))
    if settings.use_energy:
        _replace_first_by_energy(extractor.extractor)
    return extractor


def _replace_first_by_energy(layer: Any) -> None:
    """Write the log energy into the first coefficient of mfcc; lhotse's layer writes it into the first frame and fails."""
    compute = layer._forward_strided
    layer.use_energy = False

    def forward(x_strided: Tensor, log_e: Tensor) -> Tensor:
        frames: Tensor = compute(x_strided=x_strided, log_e=None)  # (B, T, num_ceps)
        frames[:, :, 0] = log_e
        return frames

    layer._forward_strided = forward


# `bad_audio: drop`: prepare a corpus with damaged audio files, and list these.


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
    kept = []
    for cut in progress(cuts, f"reading {split}"):
        try:
            read_audio(cut)
        except DataError as error:
            notes.append(f"{split}: {str(error).partition(chr(10))[0]}")
        else:
            kept.append(cut)
    return kept


# Compute features once and store them below output_dir, one folder per split; batches read them instead of audio.


_ARRAYS = "frames"


def store_features(
    splits: dict[str, Any], config: LhotseDatasetConfig, manifests: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Store the features of each split; return the folders and the splits with features attached to their cuts.

    `manifests` is the folder of the cuts. An interrupted split is recomputed, finished ones are reused. Raise
    DataError, which names an unreadable file.
    """
    import lhotse

    folders, stored = [], {}
    for split, cuts in splits.items():
        inputs = {
            "manifests": manifests.name,
            "split": split,
            "lhotse": lhotse.__version__,
            "features": config.features.model_dump(),
            "cuts": [part and part.model_dump() for part in (config.windows, config.subset, config.speed_perturbation)],
        }
        compute = partial(_write_features, cuts=cuts, split=split, config=config)
        folder, found = load_prepared_cuts(manifests.parent, inputs, compute, f"features-{split.replace('/', '-')}-")
        folders.append(folder.path)
        (stored[split],) = found.values()
    return folders, stored


def _write_features(folder: Path, final: Path, *, cuts: Any, split: str, config: LhotseDatasetConfig) -> list[str]:
    """Write the frames of one split's cuts into `folder`, which will be moved to `final`."""
    from lhotse import LilcomChunkyWriter, NumpyFilesWriter

    writer_type = LilcomChunkyWriter if config.features.storage == "lilcom_chunky" else NumpyFilesWriter
    done = []
    with writer_type(folder / _ARRAYS) as writer:
        storage = {
            "storage_type": writer.name,
            "storage_path": str(final / Path(writer.storage_path).name),
            "type": config.features.type,
            "frame_shift": config.features.frame_shift,
        }
        for index, (cut, frames) in enumerate(_compute_frames(cuts, split, config)):
            # a cut's id may contain any character, so files are numbered
            key = writer.write(f"{index % 1000:03d}-{index}", frames.numpy())
            done.append(_attach_features(cut, frames, {**storage, "storage_key": key}))
    write_cuts(folder, split, done, final=final)
    return []


def _compute_frames(cuts: Any, split: str, config: LhotseDatasetConfig) -> Iterable[tuple[Any, Any]]:
    """Yield each cut with its frames [T, F], computed by `loading.num_workers` processes, in order."""
    from torch.utils.data import DataLoader

    listed = list(cuts)
    rows: Any = _FrameDataset(listed, FrameReader(config.features))
    frames: Any = DataLoader(rows, batch_size=None, num_workers=config.loading.num_workers)
    label = f"features of {config.name} {split}"
    return progress(zip(listed, frames, strict=True), label, total=len(listed))


class _FrameDataset:
    """Map-style data set of the frames of cuts."""

    def __init__(self, cuts: list[Any], reader: FrameReader) -> None:
        self.cuts, self.reader = cuts, reader

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> Any:
        return self.reader(self.cuts[index])


def _attach_features(cut: Any, frames: Any, storage: dict[str, Any]) -> Any:
    from lhotse import Features, MonoCut

    if not hasattr(cut, "features"):  # a mix of several cuts: the frames of the mix are stored
        cut = MonoCut(
            cut.id, 0.0, cut.duration, 0, supervisions=cut.supervisions, recording=cut.tracks[0].cut.recording
        )
        return replace(_attach_features(cut, frames, storage), recording=None)
    features = Features(
        num_frames=frames.shape[0],
        num_features=frames.shape[1],
        sampling_rate=cut.sampling_rate,
        start=cut.start,
        duration=cut.duration,
        recording_id=cut.recording_id,
        channels=cut.channel,
        **storage,
    )
    return replace(cut, features=features)
