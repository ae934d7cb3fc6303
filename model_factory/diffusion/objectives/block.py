"""Block diffusion (Arriola et al. 2025, BD3LM): masked diffusion inside a block, given all blocks before it.

The network takes the doubled sequence [x_t ; x_0]. A noisy token attends to the noisy tokens of its own block and to the
clean tokens of earlier blocks; a clean token attends to clean tokens of its own and earlier blocks. One call thus gives
the distributions of all blocks, each conditioned on clean earlier blocks. With blocks of one token this is an autoregressive model, with one
block it is MDLM.
"""

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_count, check_time
from model_factory.diffusion.objectives.losses import Denoise, SubsLoss
from model_factory.diffusion.objectives.parameterisation import Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess


def block_numbers(length: int, block_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the index of each position's block, int64 [length]; the last block may be shorter."""
    return torch.arange(length, device=device) // block_size


def doubled_attention(length: int, block_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the attention mask of [x_t ; x_0], bool [2 length, 2 length], with queries in rows.

    n (n + b) pairs are True if b divides n.
    """
    return attention_of_blocks(block_numbers(length, block_size, device))


def attention_of_blocks(block: Tensor) -> Tensor:
    """Return the attention mask of [x_t ; x_0], bool [..., 2 n, 2 n], from each position's block, int64 [..., n]."""
    query, key = block[..., :, None], block[..., None, :]
    noisy = torch.cat([query == key, query > key], -1)
    clean = torch.cat([torch.zeros_like(query == key), query >= key], -1)
    return torch.cat([noisy, clean], -2)


class BlockSubsLoss(SubsLoss):
    """BD3LM's bound: the bound of SUBS in each block, with a time for each block.

    The bound is a sum over blocks, so the times of a row may depend on each other. They are spaced evenly from the one
    drawn for the row, which reduces variance and leaves each time uniform. `block_size` is in tokens.
    Raises SettingError for a process that is not absorbing, and for blocks of less than one token.
    """

    has_count_form = has_row_terms = True

    def __init__(
        self, process: DiffusionProcess, block_size: int, parameterisation: Parameterisation | None = None
    ) -> None:
        super().__init__(process, parameterisation)
        self.block_size = check_count("block_size", block_size)

    def times(self, t: Tensor, x_0: Tensor, places: Tensor | None = None) -> Tensor:
        """Return times [B, L], the same within a block, from the times [B] of the rows; raise TimeError.

        `places` int64 [B, L] are the positions of tokens in their documents, whose first blocks begin at 0; None: 0..L-1.
        """
        t = check_time("t", t)
        if t.dim() > 1:
            return t
        places = torch.arange(x_0.shape[1], device=x_0.device)[None] if places is None else places
        block = (places % self.block_size == 0).cumsum(1) - 1
        count = block[:, -1:] + 1
        return 1 - torch.remainder(1 - t[:, None] + block / count, 1.0)

    def predict(self, denoise: Denoise, x_t: Tensor, sigma: Tensor, x_0: Tensor) -> Tensor:
        """Return the first half, [B, L, dim], of the output for [x_t ; x_0], [B, 2 L], at [sigma ; 0]."""
        levels = (sigma[:, None] if sigma.dim() == 1 else sigma).expand(x_t.shape)
        output = denoise(torch.cat([x_t, x_0], 1), torch.cat([levels, torch.zeros_like(levels)], 1))
        return output[:, : x_t.shape[1]]
