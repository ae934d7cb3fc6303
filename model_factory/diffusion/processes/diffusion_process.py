"""A forward process with its noise schedule: corruption of clean tokens, and the reverse loop.

One object holds both, so that corruption and loss weight use the same alpha(t): with two different ones a "bound" may
fall below the entropy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import ShapeError, check_time, check_tokens
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.noise_schedule import NoiseSchedule
from model_factory.diffusion.randomness import Randomness


def check_clean(x_0: Tensor, frozen: Tensor | None, num_tokens: int) -> Tensor:
    """Return clean tokens [B, L] with 0 at frozen positions, bool [B, L], which may hold any id.

    Raises ShapeError for another shape or type of `frozen`, TokenError for ids that are not data tokens.
    """
    if frozen is not None and (frozen.shape != x_0.shape or frozen.dtype != torch.bool):
        raise ShapeError("frozen", f"{frozen.dtype} {tuple(frozen.shape)}", f"torch.bool {tuple(x_0.shape)}")
    free = x_0 if frozen is None else x_0.masked_fill(frozen, 0)
    check_tokens("x_0", free, num_tokens)
    return free


@dataclass(frozen=True)
class DiffusionProcess:
    """Forward process (`graph`) and noise schedule (`schedule`)."""

    graph: Graph
    schedule: NoiseSchedule

    def corrupt(self, x_0: Tensor, t: Tensor, generator: Randomness = None, frozen: Tensor | None = None) -> Tensor:
        """Draw noisy tokens x_t ~ q_t(. | x_0), exact in float64.

        Arguments:
            x_0: [B, L] data tokens; t: [B] or [B, L] times in (0, 1].
            generator: with RowGenerators a row's noise does not depend on the other rows.
            frozen: bool [B, L], True at prompts and padding, which are kept and may hold any id.
        Returns: [B, L]. Raises TokenError, TimeError and ShapeError.
        """
        return self.corrupt_at(x_0, self.schedule.sigma(check_time("t", t)), generator, frozen)

    def corrupt_at(
        self, x_0: Tensor, sigma: Tensor, generator: Randomness = None, frozen: Tensor | None = None
    ) -> Tensor:
        """Draw noisy tokens at a noise level sigma [B] or [B, L]; raise TokenError, SigmaError and ShapeError."""
        free = check_clean(x_0, frozen, self.graph.num_tokens)
        noisy = self.graph.sample_transition(free, sigma, generator)
        return noisy if frozen is None else torch.where(frozen, x_0, noisy)


State = TypeVar("State")


class Steps(Protocol[State]):
    """Protocol of a sampler in the reverse loop."""

    def begin(self, state: State) -> State:
        """Return the state with the sampler's cache."""

    def is_finished(self, state: State) -> bool:
        """Return True if the state is clean."""

    def step(self, state: State) -> State:
        """Take one step back in time."""


def reverse(sampler: Steps[State], state: State, watch: Callable[[State], object] | None = None) -> State:
    """Run a sampler from the prior to clean tokens; `watch` is called with the state after each step."""
    state = sampler.begin(state)
    while not sampler.is_finished(state):
        state = sampler.step(state)
        if watch is not None:
            watch(state)
    return state
