"""A chain of four tokens, a block of BD3LM: mean and variance of one draw of the bound's loss, by enumeration."""

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor

from tests.oracles.diffusion_bounds import quadrature

BLOCK, LETTERS = 4, 3
Moments = tuple[float, float]
"""Mean and variance, in nats of the block and their square."""


def chain(stay: float = 0.7) -> Tensor:
    """Return the joint distribution of a chain, [81], in the order of its states; `stay` is p(the same letter again)."""
    step = torch.full((LETTERS, LETTERS), (1 - stay) / (LETTERS - 1), dtype=torch.float64)
    step.fill_diagonal_(stay)
    first = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return torch.einsum("a,ab,bc,cd->abcd", first, step, step, step).flatten()


def entropy(joint: Tensor) -> float:
    return float(-(joint * joint.log()).sum())


class BlockLoss:
    """Loss of the exact network of a chain, the sum of -log p(x_l | visible tokens) over masks, for every subset of masks."""

    def __init__(self, joint: Tensor) -> None:
        self.joint = joint
        data = torch.tensor(list(product(range(LETTERS), repeat=BLOCK)))
        self.nats: dict[int, list[Tensor]] = {k: [] for k in range(BLOCK + 1)}
        for shown in product([False, True], repeat=BLOCK):
            visible = torch.tensor(shown)
            same = (data[:, None] == data[None])[..., visible].all(-1)
            nats = torch.zeros(len(data), dtype=torch.float64)
            for place in torch.nonzero(~visible)[:, 0].tolist():
                here = same & (data[:, None, place] == data[None, :, place])
                nats -= torch.log((here.double() @ joint) / (same.double() @ joint))
            self.nats[BLOCK - int(visible.sum())].append(nats)

    def moment(self, power: int, k: int) -> float:
        """Return the mean over texts and subsets of k masks of a power of the loss."""
        return float(torch.stack([(self.joint * nats**power).sum() for nats in self.nats[k]]).mean())

    def by_count(self) -> Moments:
        """Return the moments of (n / k) times the loss, with k uniform."""
        return _moments((1 / BLOCK, BLOCK / k, self._at(k)) for k in range(1, BLOCK + 1))

    def by_time(self, low: float, high: float) -> Moments:
        """Return the moments of the loss divided by t, with t uniform on [low, high], low above 0."""
        terms = []
        for u, share in quadrature(400):
            t = low * (high / low) ** u  # nodes dense near low
            density = share * t * float(torch.log(torch.tensor(high / low))) / (high - low)
            for k in range(BLOCK + 1):
                terms.append((density * len(self.nats[k]) * t**k * (1 - t) ** (BLOCK - k), 1 / t, self._at(k)))
        return _moments(terms)

    def _at(self, k: int) -> Moments:
        return self.moment(1, k), self.moment(2, k)


def _moments(terms: Iterable[tuple[float, float, Moments]]) -> Moments:
    """Return mean and variance from (probability, weight, first and second moment) of each case."""
    found = [(p * weight * first, p * weight**2 * second) for p, weight, (first, second) in terms]
    mean, square = (sum(column) for column in zip(*found, strict=True))
    return mean, square - mean**2
