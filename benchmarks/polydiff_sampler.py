"""The sampler that PolyDiff publishes, over the weights of a run: every token is drawn anew at each step.

It begins with masks alone. At each of `steps` levels the network's output becomes a law of every place, masked or not,
and all places are drawn from it at once, each alone; none is masked again. So after the first step, which draws all
places independently, the network never sees a mask. `copies` is that sampler for a network whose law of a token that is
no mask is the token itself (SUBS, or a loss over all places, as PolyDiff's, at its optimum): what the first step drew
then stays.
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
    """Token rows of the given `lengths` int64 [B], by a `DiffusionModel` under absorbing noise.

    `temperature`, above 0, divides the logits; the published sampler has none.
    """
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(real.shape, model.process.graph.mask_token)
    for step in range(steps, steps - 1 if copies else 0, -1):
        sigma = float(model.process.schedule.sigma(torch.tensor([step / steps], dtype=torch.float64)))
        logits = model.denoise(tokens, sigma, mask=None if bool(real.all()) else real)[..., : model.num_tokens]
        law = (logits.double() / temperature).softmax(-1)
        drawn = torch.multinomial(law.flatten(0, 1), 1, generator=generator).view_as(tokens)
        tokens = torch.where(real, drawn, 0)
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
