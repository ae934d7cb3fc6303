"""Rows that a run was trained on: search texts among them, and choose some at random."""

from collections.abc import Collection
from typing import Any

import numpy as np

from data_manager.data_manager import DatasetManager
from evaluation.opened import LoadedRun
from evaluation.progress import progress_bar
from training.noise import mix_seed
from training.splits import select_splits

_CHOSEN = 53


def training_rows(run: LoadedRun) -> Any:
    """Load the split that a run was trained on; raises DataError where it cannot be loaded."""
    return select_splits(DatasetManager.load_dataset(run.dataset_config), run.training, run.dataset_config.name).train


def find_copies(run: LoadedRun, rows: Any, texts: Collection[str]) -> set[str]:
    """Return those `texts`, normalised by `normalise_spaces`, that equal the text of a row."""
    tokenizer, found, wanted = run.require_tokenizer(), set[str](), frozenset(texts)
    with progress_bar("training texts", len(rows), "row") as track:
        for row in rows:
            text = normalise_spaces(tokenizer.decode(row["input_ids"]))
            if text in wanted:
                found.add(text)
            track(1)
    return found


def choose_rows(rows: Any, count: int, seed: int) -> list[list[int]]:
    """Choose `count` rows at random, or all if there are fewer; return their token ids."""
    rng = np.random.default_rng(mix_seed(seed, _CHOSEN))
    chosen = rng.choice(len(rows), size=min(count, len(rows)), replace=False)
    return [list(rows[int(index)]["input_ids"]) for index in np.sort(chosen)]


def normalise_spaces(text: str) -> str:
    """Replace all whitespace between words by one space."""
    return " ".join(text.split())
