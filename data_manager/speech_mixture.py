"""The source `speech_mixture`: cuts of several corpora interleaved by weight."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from data_manager.errors import DataError
from data_manager.speech import SpeechCorpus, load_corpus
from data_manager.speech_cuts import check_rates
from data_manager.speech_mixture_types import SpeechMixtureConfig


def load_mixture(config: SpeechMixtureConfig) -> SpeechCorpus:
    """The corpora as one, a split of the mixture being made of splits of theirs; raises DataError."""
    loaded = {part.name: load_corpus(part) for part in config.parts()}
    notes = [f"{name}: {note}" for name, corpus in loaded.items() for note in corpus.notes]
    splits = {}
    for split, chosen in _chosen(config, loaded).items():
        if len(chosen) > 1 and split.lower().startswith("train"):
            chosen = _weighted(chosen, config, split, notes)
        splits[split] = interleave(list(chosen.values()), config.seed)
    check_rates(splits, config.name)
    folders = list(dict.fromkeys(folder for corpus in loaded.values() for folder in corpus.folders))
    return SpeechCorpus(splits, folders, notes)


def interleave(parts: Sequence[Sequence[Any]], seed: int) -> Any:
    """A CutSet of all cuts of all parts, each part spread evenly, with a little chance, and in its own order.

    (lhotse's `CutSet.mux` draws a part for each cut anew, so that a part may not come for a long time.)
    """
    from lhotse import CutSet

    rng = random.Random(seed)
    placed = [((index + rng.random()) / len(part), cut) for part in parts for index, cut in enumerate(part)]
    return CutSet.from_cuts(cut for _, cut in sorted(placed, key=lambda pair: pair[0]))


def cuts_of_a_pass(sizes: Sequence[int], weights: Sequence[float], stop: str) -> list[int]:
    """How many cuts of each corpus a pass has, in proportion to the weights.

    `first_exhausted`: at most as many as each has (at least 1); `all_exhausted`: at least as many. Sizes are positive.
    """
    rounds = [size / weight for size, weight in zip(sizes, weights, strict=True)]
    if stop == "first_exhausted":
        return [min(size, max(1, round(min(rounds) * w))) for size, w in zip(sizes, weights, strict=True)]
    return [max(size, round(max(rounds) * w)) for size, w in zip(sizes, weights, strict=True)]


def _weighted(
    parts: Mapping[str, Sequence[Any]], config: SpeechMixtureConfig, split: str, notes: list[str]
) -> dict[str, list[Any]]:
    """The cuts of each part that are in a pass: drawn by the seed, or some of them again under another id."""
    counts = cuts_of_a_pass([len(cuts) for cuts in parts.values()], [config.datasets[n] for n in parts], config.stop)
    found = {}
    for (name, cuts), count in zip(parts.items(), counts, strict=True):
        order = random.Random(config.seed).sample(range(len(cuts)), len(cuts))
        found[name] = [_again(cuts[order[turn % len(cuts)]], turn // len(cuts)) for turn in range(count)]
        if count != len(cuts):
            notes.append(f"{split}: a pass has {count:,} cuts of the {len(cuts):,} of {name}, by its weight")
    return found


def _again(cut: Any, time: int) -> Any:
    return cut.with_id(f"{cut.id}_again{time}") if time else cut


def _chosen(config: SpeechMixtureConfig, loaded: Mapping[str, SpeechCorpus]) -> dict[str, dict[str, list[Any]]]:
    """The cuts of each corpus that go into each split, none empty; raises DataError for a split that is not there."""
    names = dict.fromkeys(split for corpus in loaded.values() for split in corpus.splits)
    same = {split: {name: [split] for name, own in loaded.items() if split in own.splits} for split in names}
    found: dict[str, dict[str, list[Any]]] = {}
    for split, parts in (same if config.splits is None else config.splits).items():
        chosen = {name: [cut for one in wanted for cut in _split(loaded, name, one)] for name, wanted in parts.items()}
        found[split] = {name: cuts for name, cuts in chosen.items() if cuts}
    return found


def _split(loaded: Mapping[str, SpeechCorpus], name: str, split: str) -> Any:
    splits = loaded[name].splits
    if split not in splits:
        raise DataError(f"corpus {name!r} has no split {split!r}; its splits are {', '.join(splits)}")
    return splits[split]
