"""Sampling from a process and a network in one call."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model_factory.diffusion.errors import LengthError, SettingError, check_count, gathered_checks
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess, reverse
from model_factory.diffusion.randomness import Randomness, RowGenerators
from model_factory.diffusion.samplers.base import SamplerChoice, create_sampler, default_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState, fit_rows, start_state


@torch.no_grad()
def sample(
    process: DiffusionProcess,
    denoiser: Denoiser,
    num_samples: int,
    length: int,
    *,
    steps: int = 128,
    sampler: SamplerChoice | None = None,
    prompt: Tensor | None = None,
    frozen: Tensor | None = None,
    mask: Tensor | None = None,
    generator: Randomness = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[[SamplerState], object] | None = None,
) -> SamplerState:
    """Draw samples; the final state holds `tokens` [num_samples, length] and `network_calls` [num_samples].

    Arguments:
        steps: of the time grid; `first_hitting` takes one for each mask, `entropy_bounded` at most that many.
        sampler: a registered name, a mapping of its `type` and settings, or None for the process's default.
        prompt, frozen: tokens to keep and their positions, see `start_state`. Unless the noise is absorbing, the network
            is then called with sigma [B, L], 0 at these positions.
        mask: bool [num_samples, length] or [length], True at real tokens, for sequences of different lengths. It is
            passed to the network.
        generator: seeds a stream for each row, so the same seed gives the same samples for any `batch_size`; or the
            streams themselves.
        batch_size: rows in a batch, all by default; what `denoiser` has for each row has num_samples rows. Its
            `hidden` are the frozen positions if it `hides_prompt`.
        watch: called with the state of a batch after each step, such as to show the text while it is drawn.
    Raises UnknownSamplerError, SettingError, LengthError, ShapeError and TokenError.
    """
    check_count("num_samples", num_samples)
    check_count("length", length)
    size = num_samples if batch_size is None else check_count("batch_size", batch_size)
    generators = _streams(generator, num_samples, device)
    for name in ("cond", "context"):
        given = getattr(denoiser, name)
        if given is not None and given.shape[0] != num_samples:
            raise LengthError(name, f"{given.shape[0]} rows", f"{num_samples}, one for each sample")
    if mask is not None:
        mask = fit_rows("mask", mask, (num_samples, length)).to(device)
        denoiser = replace(denoiser, mask=mask)
    start = start_state(
        process.graph, num_samples, length, prompt=prompt, frozen=frozen, mask=mask, generators=generators
    )
    given = start.frozen if mask is None else start.frozen & mask
    if not process.graph.absorbing and bool(given.any()):
        denoiser = replace(denoiser, given=given)
    if denoiser.hides_prompt:
        denoiser = replace(denoiser, hidden=start.frozen)
    chosen = default_sampler(process.graph) if sampler is None else sampler
    finished = []
    for first in range(0, num_samples, size):
        rows = slice(first, first + size)
        steps_back = create_sampler(chosen, process, denoiser.select(rows), steps)
        with gathered_checks():
            finished.append(reverse(steps_back, start.select(rows), watch))
    return _join(finished)


def _streams(generator: Randomness, rows: int, device: torch.device | str) -> RowGenerators:
    """Return a stream of random numbers for each row; raise LengthError and SettingError for a generator that has none."""
    if isinstance(generator, RowGenerators):
        if len(generator) != rows:
            raise LengthError("generator", f"{len(generator)} streams", f"{rows}, one for each sample")
        return generator
    if generator is not None and not isinstance(generator, torch.Generator):
        raise SettingError("generator", repr(generator), "a torch.Generator, such as torch.Generator().manual_seed(0)")
    return RowGenerators.from_generator(generator, rows, device)


def _join(states: list[SamplerState]) -> SamplerState:
    first = states[0]
    if len(states) == 1:
        return first
    return replace(
        first,
        tokens=torch.cat([state.tokens for state in states]),
        t=torch.cat([state.t for state in states]),
        frozen=torch.cat([state.frozen for state in states]),
        network_calls=torch.cat([state.network_calls for state in states]),
        generators=RowGenerators(
            torch.cat([state.generators.keys for state in states]),
            first.generators.counter,
            first.generators.width,
            first.generators.device,
        ),
        step=max(state.step for state in states),
        cache={},
    )
