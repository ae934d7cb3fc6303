"""Random numbers for each row of a training batch, the same however the rows are split over processes.

A row's stream depends on (seed, step, the row's index in its split) alone, and its diffusion time on the seed, the step
and the row's place in the global batch. So two processes with 4 rows each draw what one with 8 rows draws, and a
resumed run draws what an uninterrupted one would have drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.randomness import RowGenerators, hash_words
from diffusion.time_strata import stratified_times


@dataclass(frozen=True)
class RowNoise:
    """Where the rows of a batch stand, on the CPU: a GPU need not wait for what is drawn here.

    `step` counts optimiser steps from 0, `index` int64 [B] is a row's place in its split, `place` int64 [B] its place
    in the `batch_size` rows of the step, over all processes and accumulated parts.
    """

    seed: int
    step: int
    index: Tensor
    place: Tensor
    batch_size: int

    @property
    def step_seed(self) -> int:
        """A seed of the step, the same in all processes."""
        return mixed_seed(self.seed, self.step)

    def generators(self, device: torch.device | str = "cpu") -> RowGenerators:
        """A stream of uniforms for each row, decided by (seed, step, index)."""
        return RowGenerators(RowGenerators.from_seed(self.step_seed + 1, self.index).keys.to(device))

    def times(self, device: torch.device | str = "cpu", t_min: float = 0.0) -> Tensor:
        """Times in (t_min, 1], float64 [B], stratified over the rows of the step."""
        return stratified_times(self.place, self.batch_size, self.step_seed, t_min).to(device)


def mixed_seed(*words: int) -> int:
    """One seed, 0 to 2**63 - 1, from several numbers such as (seed, step, rank); neighbours come out far apart."""
    mixed = torch.zeros(1, dtype=torch.int64)
    for word in words:
        mixed = hash_words(mixed + (word % 2**62) + 1)
    return int(mixed) % 2**63
