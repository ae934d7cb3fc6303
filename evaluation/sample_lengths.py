"""Default lengths of diffusion samples: drawn from the lengths of the training rows."""

import inspect
from typing import Any

import torch
from torch import Tensor

from data_manager.errors import DataError
from evaluation.opened import LoadedRun
from training.errors import UnfitError
from training.length_counts import count_lengths, read_lengths
from training.noise import mix_seed
from training.run_folder import RunFolder

_LENGTHS = 41


def has_drawn_lengths(run: LoadedRun) -> bool:
    """Return True if rows are whole documents and the model can mask positions after a document's end."""
    draw: Any = getattr(run.model, "draw", None) or getattr(run.model, "sample", None)
    if getattr(run.dataset_config, "layout", None) != "whole" or draw is None:
        return False
    parameters = inspect.signature(draw).parameters.values()
    return any(parameter.name == "mask" or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def draw_lengths(run: LoadedRun, count: int, seed: int) -> Tensor:
    """Draw lengths int64 [count] of training rows with replacement; only the seed decides them.

    Raises RunFolderError for a damaged file, UnfitError where neither the run's folder nor its data set has lengths.
    """
    counts = _counts(run)
    generator = torch.Generator().manual_seed(mix_seed(seed, _LENGTHS))
    weights = torch.tensor(list(counts.values()), dtype=torch.float64)
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    return torch.tensor(list(counts))[chosen]


def _counts(run: LoadedRun) -> dict[int, int]:
    """Read the counts of lengths in the run's folder, or count those of the data set."""
    path = RunFolder(run.folder).lengths
    if path.is_file():
        return read_lengths(path)
    from data_manager.data_manager import DatasetManager
    from training.splits import select_splits

    try:
        rows = select_splits(
            DatasetManager.load_dataset(run.dataset_config), run.training, run.dataset_config.name
        ).train
    except DataError as error:
        raise UnfitError(
            f"lengths of samples are drawn from the data, and {path} is not there; give --length N, the number of tokens, "
            f"or the data: {error}"
        ) from error
    if not hasattr(rows, "__len__"):
        raise UnfitError(f"{path} is not there, and a stream has no lengths to draw; give --length N")
    return count_lengths(rows)
