"""lhotse's samplers, adapted to respect max_duration and to reshuffle in each epoch."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from data_manager.speech_settings import LoadingConfig


class EpochSampler:
    """Wrapper of a lhotse sampler that reshuffles at every iteration."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, from 0; otherwise the epoch advances by one per iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        self.sampler.set_epoch(self.epoch)
        self.epoch += 1
        yield from self.sampler


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
