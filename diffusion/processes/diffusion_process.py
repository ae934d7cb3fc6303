"""A forward process with its noise schedule: corruption on the way there, and the loop of the way back.

One object holds both, so that what corrupts and what weighs the loss have the same alpha(t): with two of them a
"bound" may fall below the entropy.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from diffusion.errors import ShapeError, check_time, check_tokens
from diffusion.processes.forward_process import Graph
from diffusion.processes.noise_schedule import NoiseSchedule
from diffusion.randomness import Randomness


@dataclass(frozen=True)
class DiffusionProcess:
    """Which noise replaces tokens (`graph`) and how fast (`schedule`)."""

    graph: Graph
    schedule: NoiseSchedule

    def corrupt(self, x_0: Tensor, t: Tensor, generator: Randomness = None, frozen: Tensor | None = None) -> Tensor:
        """Noisy tokens x_t ~ q_t(. | x_0), exact in float64.

        Arguments:
            x_0: [B, L] data tokens; t: [B] or [B, L] times in (0, 1].
            generator: RowGenerators make a row's noise independent of the rows beside it.
            frozen: bool [B, L], True at prompts and padding, which stay as they are, whatever they hold.
        Returns: [B, L]. Raises TokenError, TimeError and ShapeError.
        """
        return self.corrupt_at(x_0, self.schedule.sigma(check_time("t", t)), generator, frozen)

    def corrupt_at(
        self, x_0: Tensor, sigma: Tensor, generator: Randomness = None, frozen: Tensor | None = None
    ) -> Tensor:
        """The same at a noise level sigma [B] or [B, L]; raises TokenError, SigmaError and ShapeError."""
        if frozen is None:
            check_tokens("x_0", x_0, self.graph.num_tokens)
            return self.graph.sample_transition(x_0, sigma, generator)
        if frozen.shape != x_0.shape or frozen.dtype != torch.bool:
            raise ShapeError("frozen", f"{frozen.dtype} {tuple(frozen.shape)}", f"torch.bool {tuple(x_0.shape)}")
        free = x_0.masked_fill(frozen, 0)
        check_tokens("x_0", free, self.graph.num_tokens)
        return torch.where(frozen, x_0, self.graph.sample_transition(free, sigma, generator))


State = TypeVar("State")


class Steps(Protocol[State]):
    """What the reverse loop needs of a sampler."""

    def begin(self, state: State) -> State:
        """The state with what the sampler keeps between steps."""

    def finished(self, state: State) -> bool:
        """Whether the state is clean."""

    def step(self, state: State) -> State:
        """One step back in time."""


def reverse(sampler: Steps[State], state: State) -> State:
    """Run a sampler from the prior to clean tokens."""
    state = sampler.begin(state)
    while not sampler.finished(state):
        state = sampler.step(state)
    return state
