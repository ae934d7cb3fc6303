"""lhotse's samplers, made to keep to max_duration and to shuffle anew in each pass."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from data_manager.speech_settings import LoadingConfig


class Passes:
    """Batches of a lhotse sampler, in another order each time that they are gone through."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        """The number of the next pass, from 0; without it each pass follows the one before."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        self.sampler.set_epoch(self.epoch)
        self.epoch += 1
        yield from self.sampler


@dataclass
class PaddedConstraint(TimeConstraint):  # type: ignore[misc]
    """At most max_duration seconds with padding, whatever cut of a bucket comes next.

    lhotse's own looks at the longest cut so far, and a longer one that comes last takes the batch beyond the limit.
    `edges` are the upper ends of the buckets in seconds, the longest cut of all at the end.
    """

    longest_seen: float = 0.0
    edges: tuple[float, ...] = ()

    def add(self, example: Any) -> None:
        """Count a cut as long as the longest one of its bucket may be."""
        super().add(example)
        place = min(bisect_left(self.edges, example.duration), len(self.edges) - 1)
        self.longest_seen = max(self.longest_seen, self.edges[place])


def passes(cuts: Sequence[Any], loading: LoadingConfig, *, shuffle: bool, seed: int) -> Passes:
    """Batches of cuts of like lengths; without buckets where there are too few cuts or lengths to have several."""
    listed = list(cuts)
    buckets = min(loading.num_buckets, len(listed))
    inner = estimate_duration_buckets(listed, buckets) if buckets > 1 else []
    longest = max((cut.duration for cut in listed), default=0.0)
    limit = PaddedConstraint(max_duration=loading.max_duration, edges=(*inner, longest))
    if not inner:
        return Passes(DynamicCutSampler(listed, constraint=limit, shuffle=shuffle, seed=seed))
    sampler = DynamicBucketingSampler(listed, constraint=limit, duration_bins=inner, shuffle=shuffle, seed=seed)
    return Passes(sampler)
