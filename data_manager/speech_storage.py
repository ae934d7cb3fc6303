"""Features computed once and kept below output_dir, a folder a split, read by the batches instead of the audio."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_manager.manifests import prepared_cuts, write_cuts
from data_manager.progress import progress
from data_manager.speech_features import FrameReader
from data_manager.speech_types import LhotseDatasetConfig

_ARRAYS = "frames"


def store_features(
    splits: dict[str, Any], config: LhotseDatasetConfig, manifests: Path
) -> tuple[list[Path], dict[str, Any]]:
    """The folders, and the splits whose cuts know their features; `manifests` is the folder that they came from.

    A split that was cut short is computed again, finished ones are not. Raises DataError, which names a bad file.
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
        make = partial(_write, cuts=cuts, split=split, config=config)
        folder, found = prepared_cuts(manifests.parent, inputs, make, f"features-{split.replace('/', '-')}-")
        folders.append(folder.path)
        (stored[split],) = found.values()
    return folders, stored


def _write(folder: Path, final: Path, *, cuts: Any, split: str, config: LhotseDatasetConfig) -> list[str]:
    """Write the frames of the cuts of one split into `folder`, which will be moved to `final`."""
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
        for index, (cut, frames) in enumerate(_computed(cuts, split, config)):
            # a cut's id may hold anything, so files are named by number
            key = writer.write(f"{index % 1000:03d}-{index}", frames.numpy())
            done.append(_with_features(cut, frames, {**storage, "storage_key": key}))
    write_cuts(folder, split, done, final=final)
    return []


def _computed(cuts: Any, split: str, config: LhotseDatasetConfig) -> Iterable[tuple[Any, Any]]:
    """Each cut with its frames [T, F], computed by `loading.num_workers` processes, in the order of the cuts."""
    from torch.utils.data import DataLoader

    listed = list(cuts)
    rows: Any = _Frames(listed, FrameReader(config.features))
    frames: Any = DataLoader(rows, batch_size=None, num_workers=config.loading.num_workers)
    label = f"features of {config.name} {split}"
    return progress(zip(listed, frames, strict=True), label, total=len(listed))


class _Frames:
    """Frames by the position of their cut, as a DataLoader asks for them."""

    def __init__(self, cuts: list[Any], reader: FrameReader) -> None:
        self.cuts, self.reader = cuts, reader

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> Any:
        return self.reader(self.cuts[index])


def _with_features(cut: Any, frames: Any, storage: dict[str, Any]) -> Any:
    from lhotse import Features, MonoCut

    if not hasattr(cut, "features"):  # a mix of several cuts: what is stored is the frames of the mix
        cut = MonoCut(
            cut.id, 0.0, cut.duration, 0, supervisions=cut.supervisions, recording=cut.tracks[0].cut.recording
        )
        return replace(_with_features(cut, frames, storage), recording=None)
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
