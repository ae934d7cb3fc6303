"""PolyDiff's published sampler, over the weights of a run: every token is redrawn at each step.

It begins with a fully masked sequence. At each of `steps` levels the network's output is a distribution of every
position, masked or not; all positions are sampled at once, independently, and no token is masked again. So after the
first step the network never sees a mask. `copies` is this sampler for a network that predicts every unmasked token to
be itself (SUBS, or a loss over all positions like PolyDiff's, at its optimum): the tokens of the first step then stay.
"""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def redraw_every_token(
    model: Any,
    lengths: Tensor,
    *,
    steps: int = 100,
    copies: bool = False,
    temperature: float = 1.0,
    generator: torch.Generator,
) -> list[list[int]]:
    """Sample token rows of the given `lengths` int64 [B] from a `DiffusionModel` under absorbing noise.

    `temperature`, above 0, divides the logits; the published sampler has none.
    """
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(real.shape, model.process.graph.mask_token)
    for step in range(steps, steps - 1 if copies else 0, -1):
        sigma = float(model.process.schedule.sigma(torch.tensor([step / steps], dtype=torch.float64)))
        logits = model.denoise(tokens, sigma, mask=None if bool(real.all()) else real)[..., : model.num_tokens]
        probs = (logits.double() / temperature).softmax(-1)
        drawn = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view_as(tokens)
        tokens = torch.where(real, drawn, 0)
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
