"""Block diffusion (Arriola et al. 2025, BD3LM): masked diffusion inside a block, given all blocks before it.

The network sees the doubled sequence [x_t ; x_0]. A noisy token attends to its own block's noisy tokens and to the clean
tokens of earlier blocks, a clean one to clean tokens of its own and earlier blocks, so that one call gives the laws of all
blocks, each as if those before it were written. With blocks of one token this is an autoregressive model, with one
block it is MDLM.
"""

import torch
from torch import Tensor

from diffusion.errors import check_count, check_time
from diffusion.objectives.losses import Denoise, SubsLoss
from diffusion.objectives.parameterisation import Parameterisation
from diffusion.processes.diffusion_process import DiffusionProcess


def block_numbers(length: int, block_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Number of the block of each place, int64 [length]; the last block may be shorter."""
    return torch.arange(length, device=device) // block_size


def doubled_attention(length: int, block_size: int, device: torch.device | str = "cpu") -> Tensor:
    """What may attend to what, bool [2 length, 2 length], queries in rows, for [x_t ; x_0].

    n (n + b) pairs are True where b divides n.
    """
    block = block_numbers(length, block_size, device)
    query, key = block[:, None], block[None]
    noisy = torch.cat([query == key, query > key], 1)
    clean = torch.cat([torch.zeros_like(query == key), query >= key], 1)
    return torch.cat([noisy, clean])


class BlockSubsLoss(SubsLoss):
    """BD3LM's bound: that of SUBS in each block, each block at a time of its own.

    The bound adds up over blocks, so that the times of a row may depend on each other: they are spread evenly from the
    one that is drawn for it, which saves variance and leaves each uniform. `block_size` is in tokens.
    Raises SettingError for a process that is not absorbing, and blocks of less than one token.
    """

    def __init__(
        self, process: DiffusionProcess, block_size: int, parameterisation: Parameterisation | None = None
    ) -> None:
        super().__init__(process, parameterisation)
        self.block_size = check_count("block_size", block_size)

    def times(self, t: Tensor, x_0: Tensor) -> Tensor:
        """Times [B, L], one for each block, from those [B] of the rows; raises TimeError."""
        t = check_time("t", t)
        if t.dim() > 1:
            return t
        block = block_numbers(x_0.shape[1], self.block_size, x_0.device)
        count = -(-x_0.shape[1] // self.block_size)
        return 1 - torch.remainder(1 - t[:, None] + block / count, 1.0)

    def ask(self, denoise: Denoise, x_t: Tensor, sigma: Tensor, x_0: Tensor) -> Tensor:
        """The first half, [B, L, dim], of the output for [x_t ; x_0], [B, 2 L], at [sigma ; 0]."""
        levels = (sigma[:, None] if sigma.dim() == 1 else sigma).expand(x_t.shape)
        output = denoise(torch.cat([x_t, x_0], 1), torch.cat([levels, torch.zeros_like(levels)], 1))
        return output[:, : x_t.shape[1]]
