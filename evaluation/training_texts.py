"""The rows that a run was trained on: which texts stand among them, and some of them by chance."""

from collections.abc import Collection
from typing import Any

import numpy as np

from data_manager.data_manager import DatasetManager
from evaluation.opened import LoadedRun
from evaluation.progress import progress_bar
from training.noise import mixed_seed
from training.splits import choose_splits

_CHOSEN = 53


def training_rows(run: LoadedRun) -> Any:
    """The split that a run was trained on, as its data set loads it; raises DataError where it cannot be had."""
    return choose_splits(DatasetManager.load_dataset(run.dataset_config), run.training, run.dataset_config.name).train


def find_copies(run: LoadedRun, rows: Any, texts: Collection[str]) -> set[str]:
    """Those of `texts`, as `plain` gives them, that are the whole text of a row."""
    tokenizer, found, wanted = run.needs_tokenizer(), set[str](), frozenset(texts)
    with progress_bar("training texts", len(rows), "row") as track:
        for row in rows:
            text = normalise_spaces(tokenizer.decode(row["input_ids"]))
            if text in wanted:
                found.add(text)
            track(1)
    return found


def choose_rows(rows: Any, count: int, seed: int) -> list[list[int]]:
    """Token ids of `count` rows chosen by a seed, of all where there are fewer."""
    rng = np.random.default_rng(mixed_seed(seed, _CHOSEN))
    chosen = rng.choice(len(rows), size=min(count, len(rows)), replace=False)
    return [list(rows[int(index)]["input_ids"]) for index in np.sort(chosen)]


def normalise_spaces(text: str) -> str:
    """A text's words with one space between them."""
    return " ".join(text.split())
