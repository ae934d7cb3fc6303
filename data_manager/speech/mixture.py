"""The source `speech_mixture`: cuts of several corpora interleaved by weight."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_manager.errors import DataError
from data_manager.speech.cuts import SpeechCorpus, check_rates
from data_manager.speech.mixture_types import SpeechMixtureConfig
from data_manager.speech.types import SpeechCorpusConfig


def load_mixture(
    config: SpeechMixtureConfig, load_corpus: Callable[[SpeechCorpusConfig], SpeechCorpus]
) -> SpeechCorpus:
    """Load each part with `load_corpus` and interleave their splits into one corpus; raise DataError."""
    loaded = {part.name: load_corpus(part) for part in config.parts()}
    notes = [f"{name}: {note}" for name, corpus in loaded.items() for note in corpus.notes]
    splits = {}
    for split, chosen in _select_cuts(config, loaded).items():
        if len(chosen) > 1 and split.lower().startswith("train"):
            chosen = _sample_by_weight(chosen, config, split, notes)
        splits[split] = interleave(list(chosen.values()), config.seed)
    check_rates(splits, config.name)
    folders = list(dict.fromkeys(folder for corpus in loaded.values() for folder in corpus.folders))
    return SpeechCorpus(splits, folders, notes)


def interleave(parts: Sequence[Sequence[Any]], seed: int) -> Any:
    """Interleave all cuts of all parts into one CutSet: each part in its order, evenly spaced with random jitter.

    (lhotse's `CutSet.mux` samples a part independently for each cut, which allows long gaps.)
    """
    from lhotse import CutSet

    rng = random.Random(seed)
    positioned = [((index + rng.random()) / len(part), cut) for part in parts for index, cut in enumerate(part)]
    return CutSet.from_cuts(cut for _, cut in sorted(positioned, key=lambda pair: pair[0]))


def cuts_per_epoch(sizes: Sequence[int], weights: Sequence[float], stop: str) -> list[int]:
    """Compute the number of cuts of each corpus in an epoch, in proportion to the weights.

    `first_exhausted`: at most the size of each corpus (at least 1); `all_exhausted`: at least its size. Sizes are > 0.
    """
    rounds = [size / weight for size, weight in zip(sizes, weights, strict=True)]
    if stop == "first_exhausted":
        return [min(size, max(1, round(min(rounds) * w))) for size, w in zip(sizes, weights, strict=True)]
    return [max(size, round(max(rounds) * w)) for size, w in zip(sizes, weights, strict=True)]


def _sample_by_weight(
    parts: Mapping[str, Sequence[Any]], config: SpeechMixtureConfig, split: str, notes: list[str]
) -> dict[str, list[Any]]:
    """Draw the cuts of each part for an epoch, without replacement first; repeated cuts get a new id."""
    counts = cuts_per_epoch([len(cuts) for cuts in parts.values()], [config.datasets[n] for n in parts], config.stop)
    found = {}
    for (name, cuts), count in zip(parts.items(), counts, strict=True):
        order = random.Random(config.seed).sample(range(len(cuts)), len(cuts))
        found[name] = [_repeat(cuts[order[turn % len(cuts)]], turn // len(cuts)) for turn in range(count)]
        if count != len(cuts):
            notes.append(
                f"{split}: an epoch has {count:,} cuts of {name}, which has {len(cuts):,}, because of its weight"
            )
    return found


def _repeat(cut: Any, time: int) -> Any:
    return cut.with_id(f"{cut.id}_again{time}") if time else cut


def _select_cuts(config: SpeechMixtureConfig, loaded: Mapping[str, SpeechCorpus]) -> dict[str, dict[str, list[Any]]]:
    """Collect the cuts of each corpus for each split, without empty ones; raise DataError for an unknown split."""
    names = dict.fromkeys(split for corpus in loaded.values() for split in corpus.splits)
    same = {split: {name: [split] for name, corpus in loaded.items() if split in corpus.splits} for split in names}
    found: dict[str, dict[str, list[Any]]] = {}
    for split, parts in (same if config.splits is None else config.splits).items():
        chosen = {
            name: [cut for part in wanted for cut in _get_split(loaded, name, part)] for name, wanted in parts.items()
        }
        found[split] = {name: cuts for name, cuts in chosen.items() if cuts}
    return found


def _get_split(loaded: Mapping[str, SpeechCorpus], name: str, split: str) -> Any:
    splits = loaded[name].splits
    if split not in splits:
        raise DataError(f"corpus {name!r} has no split {split!r}; its splits are {', '.join(splits)}")
    return splits[split]
