"""Random numbers for each row of a training batch, independent of how rows are split over processes.

A row's random stream depends only on (seed, step, index of the row in its split), its diffusion time on the seed, the step
and the row's position in the global batch. So two processes with 4 rows each draw the same numbers as one with 8 rows, and
a resumed run draws the same numbers as an uninterrupted one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_factory.diffusion.randomness import RowGenerators, hash_words
from model_factory.diffusion.time_strata import stratified_times


@dataclass(frozen=True)
class RowNoise:
    """Seeds and positions of the rows of a batch, on the CPU, so that drawing from them never synchronises with a GPU.

    `step` counts optimiser steps from 0. `index` int64 [B] is a row's index in its split. `place` int64 [B] is its position
    among the `batch_size` rows of the step, over all processes and accumulated parts.
    """

    seed: int
    step: int
    index: Tensor
    place: Tensor
    batch_size: int

    @property
    def step_seed(self) -> int:
        """Return the seed of the step, equal in all processes."""
        return mix_seed(self.seed, self.step)

    def generators(self, device: torch.device | str = "cpu") -> RowGenerators:
        """Return a stream of uniforms for each row, a function of (seed, step, index)."""
        return RowGenerators(RowGenerators.from_seed(self.step_seed + 1, self.index).keys.to(device))

    def times(self, device: torch.device | str = "cpu", t_min: float = 0.0) -> Tensor:
        """Draw times in (t_min, 1], float64 [B], stratified over the rows of the step."""
        return stratified_times(self.place, self.batch_size, self.step_seed, t_min).to(device)


def mix_seed(*words: int) -> int:
    """Hash several numbers such as (seed, step, rank) to one seed in [0, 2**63 - 1]."""
    return int(_mix(words)) % 2**63


def mix_seeds(*words: int, count: int) -> list[int]:
    """Return `mix_seed(*words, number)` for each number from 0 to `count` - 1, computed together."""
    return [int(mixed) % 2**63 for mixed in hash_words(_mix(words) + torch.arange(count) + 1).tolist()]


def _mix(words: Sequence[int]) -> Tensor:
    """Return the hash of the words, int64 [1]."""
    mixed = torch.zeros(1, dtype=torch.int64)
    for word in words:
        mixed = hash_words(mixed + (word % 2**62) + 1)
    return mixed
