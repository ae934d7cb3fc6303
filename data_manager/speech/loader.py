"""Collate cuts into batches of frames with bool masks, True at real frames. Features are computed elsewhere."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets
from torch import Tensor
from torch.utils.data import RandomSampler

from data_manager.speech.features import FrameReader
from data_manager.speech.transcripts import transcript
from data_manager.speech_settings import FeaturesConfig, LoadingConfig
from data_manager.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


Batch = dict[str, Any]
Change = Callable[[Any, int], Any]
"""Augmentation: a cut and an epoch to a changed cut."""


class SpeechCollator:
    """Collate function from lhotse cuts to the inputs of an encoder with `input_dim` F. Can be pickled.

    `features` [B, T, F] float32, padded with 0; `feature_mask` [B, T]; `text`, B transcripts. With a tokenizer, `labels`
    [B, L] int64, without special tokens and padded with its pad id, and `label_mask` [B, L]. With `speakers`, the
    output of `speaker_targets`.
    """

    def __init__(self, features: FeaturesConfig, tokenizer: Tokenizer | None = None, *, speakers: bool = False) -> None:
        self.frames = FrameReader(features)
        self.tokenizer, self.speakers = tokenizer, speakers
        self.frame_shift, self.first_centre = features.frame_shift, features.first_centre

    def __call__(self, cuts: Sequence[Any]) -> Batch:
        """Collate `cuts`; raise DataError for unreadable audio."""
        frames = [self.frames(cut) for cut in cuts]
        features = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)  # (B, T, F)
        batch: Batch = {"features": features, "feature_mask": _length_mask([len(rows) for rows in frames])}
        batch["text"] = [transcript(cut) for cut in cuts]
        if self.tokenizer is not None:
            batch |= _pad_labels(batch["text"], self.tokenizer)
        if self.speakers:
            batch |= speaker_targets(cuts, features.shape[1], self.frame_shift, self.first_centre)
        return batch


class CutBatchDataset:
    """Data set indexed by whole batches of cuts, as the sampler yields them; workers compute the features."""

    def __init__(self, collate: Callable[[Sequence[Any]], Batch]) -> None:
        self.collate = collate

    def __getitem__(self, cuts: Any) -> Batch:
        return self.collate(list(cuts))


def speaker_targets(cuts: Sequence[Any], frames: int, frame_shift: float, first_centre: float | None = None) -> Batch:
    """Build diarization targets for cuts of at most `frames` frames T, one every `frame_shift` seconds.

    `first_centre` is the centre of the first frame in seconds, by default half of `frame_shift`.

    `speakers`: names for each cut, in the order in which they begin to speak; `segments`: (speaker, start, end) in
    seconds for each cut, clipped to its ends; `speaker_activity`: bool [B, T, S], True if a frame's centre is in a
    segment of speaker s of that cut. S is the largest number of speakers in a cut, and at least 1.
    """
    segments = [_clip_segments(cut) for cut in cuts]
    speakers = [list(dict.fromkeys(name for name, _, _ in found)) for found in segments]
    activity = torch.zeros(len(segments), frames, max([1, *map(len, speakers)]), dtype=torch.bool)
    first_centre = 0.5 * frame_shift if first_centre is None else first_centre
    centres = torch.arange(frames, dtype=torch.float64) * frame_shift + first_centre
    for row, (found, names) in enumerate(zip(segments, speakers, strict=True)):
        for name, start, end in found:
            activity[row, :, names.index(name)] |= (centres >= start) & (centres < end)
    return {"speakers": speakers, "segments": segments, "speaker_activity": activity}


def _clip_segments(cut: Any) -> list[tuple[str, float, float]]:
    spoken = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    clipped = [(str(item.speaker), max(0.0, item.start), min(cut.duration, item.end)) for item in spoken]
    return [(name, start, end) for name, start, end in clipped if end > start]


def _pad_labels(texts: Sequence[str], tokenizer: Tokenizer) -> Batch:
    rows = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, rows))
    labels = torch.full((len(rows), longest), tokenizer.pad_token_id, dtype=torch.int64)
    for index, row in enumerate(rows):
        labels[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return {"labels": labels, "label_mask": _length_mask([len(row) for row in rows])}


def _length_mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


# Batch a number of cuts.


class _Cuts:
    """Map-style data set over cuts, indexed by (epoch, index)."""

    def __init__(self, cuts: Any, change: Change | None) -> None:
        self.cuts, self.change = list(cuts), change

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        cut = self.cuts[index]
        return cut if self.change is None else self.change(cut, epoch)


class _EpochKeys:
    """Sampler of (epoch, index), with a new order in each epoch if `generator` is given."""

    def __init__(self, count: int, generator: torch.Generator | None) -> None:
        self.count, self.generator, self.epoch = count, generator, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = (
            range(self.count) if self.generator is None else RandomSampler(range(self.count), generator=self.generator)
        )
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield from ((epoch, index) for index in order)


def cut_loader(
    cuts: Any,
    collate: Callable[[Any], dict[str, Any]],
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    num_workers: int,
    change: Change | None = None,
) -> "DataLoader[dict[str, Any]]":
    """Build a DataLoader with batches of `batch_size` cuts, to each of which `change` is applied."""
    from torch.utils.data import DataLoader

    generator = torch.Generator().manual_seed(seed)
    data: Any = _Cuts(cuts, change)
    keys: Any = _EpochKeys(len(data.cuts), generator if shuffle else None)
    workers: Any = {"num_workers": num_workers, "generator": generator}
    return DataLoader(data, batch_size=batch_size, sampler=keys, collate_fn=collate, **workers)


# Batch cuts by seconds of audio, bucketed by length.


_log = logging.getLogger(__name__)


def speech_collator(config: Any, tokenizer: Tokenizer | None) -> "SpeechCollator":
    """Build the collate function for cuts of the data set `config`; missing settings have their defaults."""
    loading = getattr(config, "loading", LoadingConfig())
    return SpeechCollator(getattr(config, "features", FeaturesConfig()), tokenizer, speakers=loading.speakers)


def bucketed_loader(
    cuts: Sequence[Any],
    collate: Callable[[Any], dict[str, Any]],
    loading: LoadingConfig,
    *,
    shuffle: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    change: Change | None = None,
) -> "DataLoader[dict[str, Any]]":
    """Build a DataLoader with batches of at most `loading.max_duration` seconds, including padding.

    A longer cut is a batch alone. `change` is applied to the cuts of each batch. Under torch.distributed each process gets
    different batches. The number of batches is not known in advance.
    """
    from torch.utils.data import DataLoader

    assert loading.max_duration is not None
    longer = sum(cut.duration > loading.max_duration for cut in cuts)
    if longer:
        _log.warning(
            "%d cuts are longer than max_duration %g s; each becomes a single-cut batch", longer, loading.max_duration
        )
    sampler: Any = make_sampler(cuts, loading, shuffle=shuffle, seed=seed)
    sampler.change = change and partial(_change_batch, change)
    data: Any = CutBatchDataset(collate)
    # the default collate_fn would turn the tuples in a batch into lists
    return DataLoader(data, sampler=sampler, batch_size=None, num_workers=num_workers, collate_fn=_identity)


def _change_batch(change: Change, cuts: Any, epoch: int) -> list[Any]:
    return [change(cut, epoch) for cut in cuts]


def _identity(batch: Any) -> Any:
    return batch


# lhotse's samplers, adapted to respect max_duration and to reshuffle in each epoch.


class EpochSampler:
    """Wrapper of a lhotse sampler that reshuffles at every iteration; `change` is applied to each batch and the epoch."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch = sampler, 0
        self.change: Callable[[Any, int], Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, from 0; otherwise the epoch advances by one per iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        self.sampler.set_epoch(self.epoch)
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield from (cuts if self.change is None else self.change(cuts, epoch) for cuts in self.sampler)


@dataclass
class PaddedConstraint(TimeConstraint):  # type: ignore[misc]
    """Limit of max_duration seconds including padding, for any order of the cuts in a bucket.

    lhotse's constraint uses the longest cut so far, so a longer last cut can push the batch over the limit.
    `edges` are the upper bucket bounds in seconds; the last one is the longest cut of all.
    """

    longest_seen: float = 0.0
    edges: tuple[float, ...] = ()

    def add(self, example: Any) -> None:
        """Count a cut with its bucket's upper bound as its duration."""
        super().add(example)
        bucket = min(bisect_left(self.edges, example.duration), len(self.edges) - 1)
        self.longest_seen = max(self.longest_seen, self.edges[bucket])


def make_sampler(cuts: Sequence[Any], loading: LoadingConfig, *, shuffle: bool, seed: int) -> EpochSampler:
    """Build a sampler of batches bucketed by length, or without buckets if there are too few cuts or lengths."""
    listed = list(cuts)
    buckets = min(loading.num_buckets, len(listed))
    bounds = estimate_duration_buckets(listed, buckets) if buckets > 1 else []
    longest = max((cut.duration for cut in listed), default=0.0)
    limit = PaddedConstraint(max_duration=loading.max_duration, edges=(*bounds, longest))
    if not bounds:
        return EpochSampler(DynamicCutSampler(listed, constraint=limit, shuffle=shuffle, seed=seed))
    sampler = DynamicBucketingSampler(listed, constraint=limit, duration_bins=bounds, shuffle=shuffle, seed=seed)
    return EpochSampler(sampler)
