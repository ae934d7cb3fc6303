"""Compute frames from the audio of cuts with lhotse's extractors, which match Kaldi's."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor

from data_manager.errors import DataError, plain
from data_manager.progress import progress
from data_manager.speech.audio import Samples, read_audio
from data_manager.speech.manifests import load_prepared_cuts, write_cuts
from data_manager.speech.types import SpeechCorpusConfig
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
        """Return the frames of one cut. Raise DataError, which names the file."""
        if cut.has_features:
            return self._read_stored(cut)
        samples = self._mix_channels(cut, read_audio(cut))
        try:
            with _seeded_dither(cut.id) if self.settings.dither else nullcontext():
                frames = self.extractor(cut.sampling_rate).extract(samples, cut.sampling_rate)
        except Exception as error:  # lhotse hardly validates its settings and fails in the computation
            raise DataError(
                f"{self.settings.type} features of cut {cut.id} ({cut.duration} s): {plain(error)}"
            ) from error
        return torch.as_tensor(frames).float()

    def _mix_channels(self, cut: Any, samples: Samples) -> Samples:
        """Average the channels [C, N] to [1, N]; raise DataError if they differ and `channel` is not set."""
        if len(samples) > 1 and self.settings.channel is None and (samples != samples[:1]).any():
            raise DataError(
                f"audio of {cut.id} has {len(samples)} channels that differ; set features.channel to the number of "
                "one, to mean (their average) or to each (a cut for each channel)"
            )
        mixed: Samples = samples.mean(axis=0, keepdims=True)
        return mixed

    def extractor(self, sampling_rate: int) -> Any:
        """Return lhotse's extractor for a sampling rate in Hz; cached."""
        if sampling_rate not in self._extractors:
            self._extractors[sampling_rate] = make_extractor(self.settings, sampling_rate)
        return self._extractors[sampling_rate]

    def _read_stored(self, cut: Any) -> Tensor:
        from lhotse.features.io import get_reader

        try:
            if cut.num_channels == 1:
                frames = cut.load_features()
            else:
                stored = cut.features  # channels are already averaged; lhotse would look for each of them
                frames = get_reader(stored.storage_type)(stored.storage_path).read(stored.storage_key)
        except Exception as error:  # lilcom and numpy raise different errors for a damaged file
            path = cut.features.storage_path
            raise DataError(
                f"features of cut {cut.id} cannot be read from {path}: {plain(error)}; remove that folder to "
                "recompute them"
            ) from error
        width = self.settings.width(cut.sampling_rate)
        if frames.shape[-1] != width:
            raise DataError(
                f"cut {cut.id} has stored features of width {frames.shape[-1]} in {cut.features.storage_path}, and "
                f"{self.settings.type} features of the config have width {width}; set features to those that are stored"
            )
        return torch.as_tensor(frames).float()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the extractors: each worker builds them."""
        return {"settings": self.settings, "_extractors": {}}


@contextmanager
def _seeded_dither(name: str) -> Iterator[None]:
    """Seed the random numbers by a cut's id, so that its dither is reproducible in every process and epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


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


# Compute features once and store them below output_dir, one folder per split; batches read them instead of audio.


_ARRAYS = "frames"


def store_features(
    splits: dict[str, Any], config: SpeechCorpusConfig, manifests: Path
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
            **config.model_dump(include={"text", "filter"}, exclude_none=True),
        }
        compute = partial(_write_features, cuts=cuts, split=split, config=config)
        folder, found = load_prepared_cuts(manifests.parent, inputs, compute, f"features-{split.replace('/', '-')}-")
        folders.append(folder.path)
        (stored[split],) = found.values()
    return folders, stored


def _write_features(folder: Path, final: Path, *, cuts: Any, split: str, config: SpeechCorpusConfig) -> list[str]:
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


def _compute_frames(cuts: Any, split: str, config: SpeechCorpusConfig) -> Iterable[tuple[Any, Any]]:
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
