"""Two ways to show a denoiser its neighbours from the first step: a convolution, and an initialisation of rotary heads.

A masked token is best predicted from the tokens beside it, yet attention has to find out first which ones those are; until
then the network predicts little more than the frequencies of tokens. Both leave the loss and its bound as they are.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention.documents import Documents


class LocalConvolution(nn.Module):
    """x + Conv1d(x) over token embeddings [B, L, width], without a bias; an odd `kernel` in tokens.

    The weights are zero at first, so the network then computes what it computes without the convolution, and no random
    number is drawn for them. Networks keep it as `local`, its name in checkpoints.
    """

    zero_where_missing = True
    """A checkpoint without these weights loads, and they are zero (`model.checkpoint.assign_tensors`)."""
    trained_beside_adapters = ("weight",)
    """Trained even if adapters freeze the rest: while it is zero and frozen it would do nothing."""

    def __init__(self, width: int, kernel: int, groups: int | None = None) -> None:
        super().__init__()
        self.groups = groups or 1
        self.weight = nn.Parameter(torch.zeros(width, width // self.groups, kernel))

    def forward(self, x: Tensor, mask: Tensor | None, documents: Tensor | None) -> Tensor:
        """Map embeddings [B, L, width] to the same shape.

        mask bool [B, L] is True at real tokens: others are zero to the convolution, so that a row does not depend on its
        padding. documents int [B, L] numbers the documents of packed rows, each of which is convolved as if it were alone.
        """
        real = x if mask is None else x.masked_fill(~mask[..., None], 0.0)
        reach = self.weight.shape[-1] // 2
        if documents is None:
            added = F.conv1d(real.transpose(1, 2), self.weight, padding=reach, groups=self.groups)
            return x + added.transpose(1, 2)
        length, numbers = x.shape[1], Documents(documents).numbers
        around = F.pad(real, (0, 0, reach, reach))
        theirs = F.pad(numbers, (reach, reach))  # 0 beyond the row: no document has that number
        for tap in range(self.weight.shape[-1]):
            beside = slice(tap, tap + length)
            own = around[:, beside].masked_fill((theirs[:, beside] != numbers)[..., None], 0.0)
            x = x + F.conv1d(own.transpose(1, 2), self.weight[..., tap, None], groups=self.groups).transpose(1, 2)
        return x


def make_local(config: Any, width: int) -> LocalConvolution | None:
    """Build the convolution that the section's `local_width` asks for; None without one."""
    kernel: int | None = config.get("local_width")
    return None if kernel is None else LocalConvolution(width, kernel, config.get("local_groups"))


STRENGTH = 1.2
"""Share of each rotary frequency in the logit of the neighbour."""
SLOWEST = 0.05
"""Slowest frequency that takes part: slower ones hardly tell neighbours apart. [radians a token]"""


@torch.no_grad()
def look_at_neighbours(to_qkv: nn.Linear, shift: Tensor, num_heads: int, *, base: float = 10_000.0) -> None:
    """Initialise attention with rotary positions so that heads look one token to the right and to the left, by turns.

    `to_qkv` has weights [3 * width, width], and reads a LayerNorm without bias plus `shift` [width], which becomes 1. As
    the norm has mean zero over the channels, equal columns added to the weights are a constant query or key: keys k0
    with equal parts at each frequency, and queries k0 rotated by one position. Without random numbers.
    """
    width = to_qkv.in_features
    head_dim = width // num_heads
    frequency = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    size = math.sqrt(STRENGTH * math.sqrt(head_dim)) * (frequency > SLOWEST)
    key = torch.cat([size, torch.zeros_like(size)])
    heads = []
    for head in range(num_heads):
        angle = frequency if head % 2 == 0 else -frequency
        heads.append(torch.cat([size * angle.cos(), size * angle.sin()]))
    constant = torch.stack([torch.cat(heads), key.repeat(num_heads), torch.zeros(width)]).flatten()
    weight = to_qkv.weight
    weight -= weight.mean(1, keepdim=True)  # the shift of 1 then adds nothing else to queries, keys and values
    weight += (constant / width).to(weight)[:, None]
    shift.fill_(1.0)
