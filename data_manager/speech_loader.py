"""Batches of cuts by seconds of audio, cuts of like lengths together."""

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
    from data_manager.speech_sampler import passes

    assert loading.max_duration is not None
    longer = sum(cut.duration > loading.max_duration for cut in cuts)
    if longer:
        _log.warning("%d cuts are longer than max_duration %g s; each is a batch alone", longer, loading.max_duration)
    batches: Any = passes(cuts, loading, shuffle=shuffle, seed=seed)
    data: Any = BatchOfCuts(collate)
    # without a collate_fn the loader would make lists of the tuples in a batch
    return DataLoader(data, sampler=batches, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
