"""Stratified sampling of training times over the global batch, the same for any split of it.

Row i of G gets a stratum ((k - 1) / G, k / G] of (0, 1], where k is a seeded permutation of the rows, and a uniform time
in it. The mean over the batch then estimates the integral over t without the variance between strata (as in Kingma et
al. 2021). Times depend only on the seed and the row's index, so one process with 16 rows, four processes with 4 each,
and four accumulated batches draw the same times.
"""

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_count, check_number, check_tokens
from model_factory.diffusion.randomness import RowGenerators

_SALT = 0x74696D6573  # separates the times from noise drawn with the same seed


def stratified_times(rows: Tensor, batch_size: int, seed: int, t_min: float = 0.0) -> Tensor:
    """Draw times in (t_min, 1], float64 [B], for rows given by their index in a global batch.

    Arguments:
        rows: int [B], indices from 0 to batch_size - 1.
        batch_size: number of rows of the global batch, over all processes and accumulated parts.
        seed: one for each optimiser step, the same in all processes.
        t_min: lower end of the times; above 0 the bound misses the part below it.
    Raises SettingError and TokenError (for a row outside the batch).
    """
    check_count("batch_size", batch_size)
    check_tokens("rows", rows, batch_size)
    check_number("t_min", t_min, 0.0, 0.999)
    all_rows = torch.arange(batch_size, device=rows.device)
    # Strata are permuted, so that the order of a sorted batch is not correlated with time.
    stratum = RowGenerators.from_seed(seed ^ _SALT, all_rows).rand(1)[:, 0].argsort()[rows]
    offset = RowGenerators.from_seed(seed ^ _SALT, rows + batch_size).rand(1)[:, 0]
    return t_min + (1 - t_min) * (stratum + (1 - offset)) / batch_size
