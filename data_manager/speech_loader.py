"""Batch cuts by seconds of audio, bucketed by length."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from data_manager.speech_settings import FeaturesConfig, LoadingConfig
from data_manager.tokenizer_base import Tokenizer

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from data_manager.speech_batches import SpeechCollator

_log = logging.getLogger(__name__)


def speech_collator(config: Any, tokenizer: Tokenizer | None) -> "SpeechCollator":
    """Build the collate function for cuts of the data set `config`; missing settings have their defaults."""
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
    """Build a DataLoader with batches of at most `loading.max_duration` seconds, including padding.

    A longer cut is a batch alone. Under torch.distributed each process gets different batches. The number of batches
    is not known in advance.
    """
    from torch.utils.data import DataLoader

    from data_manager.speech_batches import CutBatchDataset
    from data_manager.speech_sampler import make_sampler

    assert loading.max_duration is not None
    longer = sum(cut.duration > loading.max_duration for cut in cuts)
    if longer:
        _log.warning(
            "%d cuts are longer than max_duration %g s; each becomes a single-cut batch", longer, loading.max_duration
        )
    sampler: Any = make_sampler(cuts, loading, shuffle=shuffle, seed=seed)
    data: Any = CutBatchDataset(collate)
    # the default collate_fn would turn the tuples in a batch into lists
    return DataLoader(data, sampler=sampler, batch_size=None, num_workers=num_workers, collate_fn=_identity)


def _identity(batch: Any) -> Any:
    return batch
