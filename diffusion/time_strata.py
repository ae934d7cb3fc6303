"""Training times by strata over the global batch, the same for any split of it.

Row i of G gets its own stratum ((k - 1) / G, k / G] of (0, 1], where k is a permutation that the seed decides, and a
uniform place in it. The mean over the batch then estimates the integral over t without the variance between strata
(Kingma et al. 2021 stratify likewise). Only the seed and the row's index decide, so one process with 16 rows, four
with 4 each, or four accumulated batches draw the same times.
"""

import torch
from torch import Tensor

from diffusion.errors import check_count, check_number, check_tokens
from diffusion.randomness import RowGenerators

_SALT = 0x74696D6573  # parts the times from noise that is drawn with the same seed


def stratified_times(rows: Tensor, batch_size: int, seed: int, t_min: float = 0.0) -> Tensor:
    """Times in (t_min, 1], float64 [B], for rows given by their index in a global batch.

    Arguments:
        rows: int [B], indices from 0 to batch_size - 1.
        batch_size: number of rows of the global batch, over all processes and accumulated parts.
        seed: one for each optimiser step, the same in all processes.
        t_min: where the times start; above 0 the bound loses what lies before.
    Raises SettingError and TokenError (for a row outside the batch).
    """
    check_count("batch_size", batch_size)
    check_tokens("rows", rows, batch_size)
    check_number("t_min", t_min, 0.0, 0.999)
    everyone = torch.arange(batch_size, device=rows.device)
    # Strata are permuted: a batch that is sorted in any way must not tie its order to the time.
    stratum = RowGenerators.from_seed(seed ^ _SALT, everyone).rand(1)[:, 0].argsort()[rows]
    place = RowGenerators.from_seed(seed ^ _SALT, rows + batch_size).rand(1)[:, 0]
    return t_min + (1 - t_min) * (stratum + (1 - place)) / batch_size
