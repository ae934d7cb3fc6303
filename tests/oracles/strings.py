"""A language of strings of 0 to 3 letters, in rows of four tokens: letters, an end, and a fill that is shown or hidden."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from model_factory.diffusion.objectives.losses import SubsLoss

LETTERS, END, MASK, LENGTH = 2, 2, 3, 4
"""Tokens 0 and 1 are letters, 2 is the end; the mask is the last state."""


def entropy(probs: Tensor) -> float:
    """Return the entropy in nats of probabilities of any shape."""
    return float(-torch.special.xlogy(probs, probs).sum())


@dataclass(frozen=True)
class Strings:
    """Rows `tokens` int64 [n, 4], with bool [n, 4] of the `real` ones, which are noised and counted, and their probabilities [n]."""

    tokens: Tensor
    real: Tensor
    probs: Tensor

    @classmethod
    def drawn(cls, seed: int, fill: int, hide: bool = False) -> "Strings":
        """Draw the probabilities of the strings, whose rows are filled with ends to a multiple of `fill`, or to four without it.

        With `hide` the fill is hidden, so that a row has its letters and one end.
        """
        strings = [letters for size in range(LENGTH) for letters in product(range(LETTERS), repeat=size)]
        sizes = torch.tensor([len(letters) + 1 for letters in strings])
        tokens = torch.tensor([[*letters, *[END] * (LENGTH - len(letters))] for letters in strings])
        shown = sizes if hide else (sizes + fill - 1) // fill * fill
        weights = -torch.rand(len(strings), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
        return cls(tokens, torch.arange(LENGTH) < shown[:, None], weights / weights.sum())

    def grouped(self, keys: Tensor) -> Tensor:
        """Return the probabilities of the distinct rows of keys [n, ...]."""
        _, group = keys.flatten(1).unique(dim=0, return_inverse=True)
        return torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add(0, group, self.probs)

    def conditional(self, seen: Tensor, real: Tensor, upto: int = LENGTH) -> Tensor:
        """Return p(token | seen), [b, 4, 3], given int [b, 4] with masks where nothing is known, and which are real.

        Only the first `upto` places are looked at.
        """
        alike = (real[:, None] == self.real)[..., :upto].all(-1)
        agrees = ((seen[:, None] == self.tokens) | (seen[:, None] == MASK) | ~self.real)[..., :upto].all(-1)
        weights = (alike & agrees) * self.probs
        found = torch.einsum("bn,nlv->blv", weights, torch.nn.functional.one_hot(self.tokens, MASK).double())
        return found / found.sum(-1, keepdim=True)

    def bound(self, objective: SubsLoss, times: Iterator[tuple[float, float]]) -> float:
        """Return the bound of the exact network in nats a string: quadrature over time, a sum over all masks."""
        total, size, grid = 0.0, getattr(objective, "block_size", LENGTH), list(times)
        for chosen in torch.tensor(list(product([False, True], repeat=LENGTH))):
            rows = (self.real | ~chosen).all(-1)
            x_0, real = self.tokens[rows], self.real[rows]
            x_t = torch.where(chosen, MASK, x_0)

            def network(shown: Tensor, _: Tensor, real: Tensor = real) -> Tensor:
                x_t, x_0 = shown[:, :LENGTH], shown[:, -LENGTH:]
                output = torch.full((*x_t.shape, MASK + 1), -torch.inf, dtype=torch.float64)
                for start in range(0, LENGTH, size):
                    block = slice(start, start + size)
                    seen = torch.where(torch.arange(LENGTH) < start, x_0, x_t)
                    output[:, block, :MASK] = self.conditional(seen, real, start + size)[:, block].log()
                return output if shown.shape == x_t.shape else torch.cat([output, output], 1)

            output = objective.predict(network, x_t, torch.ones(len(x_t)), x_0)  # masks do not depend on the level
            for t, weight in grid:
                level = objective.schedule.sigma(t)
                each = torch.where(chosen, -torch.expm1(-level), torch.exp(-level))
                probability = self.probs[rows] * torch.where(real, each, 1.0).prod(-1)
                nats = objective.diffusion(output, x_t, x_0, torch.full(x_t.shape, t, dtype=torch.float64))
                total += weight * float((probability[:, None] * nats.masked_fill(~real, 0.0)).sum())
        return total
