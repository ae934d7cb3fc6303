"""Batches of cuts by seconds of audio, cuts of like lengths together."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data_manager.speech_settings import FeaturesConfig, LoadingConfig
from data_manager.tokenizers import Tokenizer

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from data_manager.speech_batches import SpeechCollator

_log = logging.getLogger(__name__)


def speech_collator(config: Any, tokenizer: Tokenizer | None) -> "SpeechCollator":
    """What makes cuts of the data set `config` into batches; one without settings of its own has the defaults."""
    from data_manager.speech_batches import SpeechCollator

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
) -> "DataLoader[dict[str, Any]]":
    """Batches of at most `loading.max_duration` seconds, padding counted; a longer cut is a batch of its own.

    Under torch.distributed each process gets batches of its own. How many there are is not known beforehand.
    """
    from torch.utils.data import DataLoader

    from data_manager.speech_batches import BatchOfCuts

    assert loading.max_duration is not None
    longer = sum(cut.duration > loading.max_duration for cut in cuts)
    if longer:
        _log.warning("%d cuts are longer than max_duration %g s; each is a batch alone", longer, loading.max_duration)
    batches: Any = Passes(_sampler(cuts, loading, shuffle, seed))
    data: Any = BatchOfCuts(collate)
    # without a collate_fn the loader would make lists of the tuples in a batch
    return DataLoader(data, sampler=batches, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


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


def _sampler(cuts: Sequence[Any], loading: LoadingConfig, shuffle: bool, seed: int) -> Any:
    """lhotse's sampler with buckets, or the one without where lengths do not differ enough to have several."""
    from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
    from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

    listed = list(cuts)
    buckets = min(loading.num_buckets, len(listed))
    edges = estimate_duration_buckets(listed, buckets) if buckets > 1 else []
    settings: dict[str, Any] = {"max_duration": loading.max_duration, "shuffle": shuffle, "seed": seed}
    if not edges:
        return DynamicCutSampler(listed, **settings)
    return DynamicBucketingSampler(listed, duration_bins=edges, **settings)
