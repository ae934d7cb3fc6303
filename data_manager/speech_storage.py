"""Compute features once and store them below output_dir, one folder per split; batches read them instead of audio."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_manager.manifests import load_prepared_cuts, write_cuts
from data_manager.progress import progress
from data_manager.speech_features import FrameReader
from data_manager.speech_types import LhotseDatasetConfig

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
