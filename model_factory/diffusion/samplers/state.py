"""State of a sampler, and the initial state: noise from the prior with prompts, suffixes and padding."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from model_factory.diffusion.errors import LengthError, ShapeError, check_integers, check_tokens
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.randomness import RowGenerators


@dataclass(frozen=True)
class SamplerState:
    """State of a sampler: everything the next step depends on.

    Fields:
        tokens: [B, L] noisy tokens; t: [B] float64 on the CPU, their time.
        generators: a stream of uniforms for each row, advanced by steps.
        frozen: bool [B, L], True at tokens that are kept: prompts and padding.
        network_calls: int64 [B] on the CPU, evaluations of the network so far.
        step: steps done; cache: tensors of B rows that a sampler keeps between steps.
    Tokens and what the network reads are on its device. What the next step is, is known on the CPU, so that the host
    computes ahead and does not wait for the device.
    """

    tokens: Tensor
    t: Tensor
    generators: RowGenerators
    frozen: Tensor
    network_calls: Tensor
    step: int = 0
    cache: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: slice) -> "SamplerState":
        """Return the state of a slice of rows of the batch."""
        return replace(
            self,
            tokens=self.tokens[rows],
            t=self.t[rows],
            generators=self.generators[rows],
            frozen=self.frozen[rows],
            network_calls=self.network_calls[rows],
            cache={name: value[rows] for name, value in self.cache.items()},
        )


def start_state(
    graph: Graph,
    num_samples: int,
    length: int,
    *,
    prompt: Tensor | None = None,
    frozen: Tensor | None = None,
    mask: Tensor | None = None,
    generators: RowGenerators,
) -> SamplerState:
    """Create the state at t = 1: noise from the prior, with the prompt's tokens at frozen positions.

    Arguments:
        prompt: [P] or [num_samples, P] data tokens, P at most `length`.
        frozen: bool of the prompt's shape, or [L] or [num_samples, L]: positions that keep the prompt's
            tokens; by default all of the prompt, from position 0.
        mask: bool [num_samples, L], True at real tokens; padding keeps the prompt's token, or 0.
    Raises LengthError, ShapeError and TokenError.
    """
    device = generators.device
    shape = (num_samples, length)
    tokens, keep = _place_prompt(shape, prompt, frozen, device)
    check_tokens("prompt", tokens.masked_fill(~keep, 0), graph.num_tokens)
    if mask is not None:
        keep = keep | ~fit_rows("mask", mask, shape)
    noise = graph.sample_limit(shape, generators, device)
    return SamplerState(
        tokens=torch.where(keep, tokens, noise),
        t=torch.ones(num_samples, dtype=torch.float64),
        generators=generators,
        frozen=keep,
        network_calls=torch.zeros(num_samples, dtype=torch.int64),
    )


def _place_prompt(
    shape: tuple[int, int], prompt: Tensor | None, frozen: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return tokens and frozen positions, both of `shape`."""
    tokens = torch.zeros(shape, dtype=torch.int64, device=device)
    if prompt is None:
        if frozen is not None:
            raise ShapeError("frozen", "positions without a prompt", "a prompt whose tokens are kept")
        return tokens, torch.zeros(shape, dtype=torch.bool, device=device)
    check_integers("prompt", prompt)
    width = prompt.shape[-1] if prompt.ndim else 0
    if width > shape[1]:
        raise LengthError("prompt", f"{width} tokens", f"{shape[1]} at most, the length of the samples")
    prompt = fit_rows("prompt", prompt, (shape[0], width)).to(device)
    tokens[:, :width] = prompt
    given = torch.arange(shape[1], device=device).expand(shape) < width
    if frozen is None:
        return tokens, given
    columns = frozen.shape[-1] if isinstance(frozen, Tensor) and frozen.ndim else width
    if columns not in (width, shape[1]):
        raise LengthError(
            "frozen", f"{columns} positions", f"the length of the prompt, {width}, or of a sample, {shape[1]}"
        )
    keep = torch.zeros(shape, dtype=torch.bool, device=device)
    keep[:, :columns] = fit_rows("frozen", frozen, (shape[0], columns)).to(device)
    if bool((keep & ~given).any()):
        raise LengthError("frozen", f"a position after the prompt's {width} tokens", "positions inside the prompt")
    return tokens, keep


def fit_rows(argument: str, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Expand values of [L], [1, L] or [B, L] to [B, L]; raise ShapeError, also for masks that are not bool."""
    if not isinstance(values, Tensor):
        raise ShapeError(argument, f"a {type(values).__name__}", f"a bool tensor, [{shape[1]}] or {list(shape)}")
    if argument != "prompt" and values.dtype != torch.bool:
        raise ShapeError(argument, f"dtype {values.dtype}", "torch.bool")
    rows = values.shape[0] if values.ndim == 2 else 1
    if values.ndim not in (1, 2) or values.shape[-1] != shape[1] or rows not in (1, shape[0]):
        raise ShapeError(argument, f"shape {tuple(values.shape)}", f"[{shape[1]}] or {list(shape)}")
    return values.expand(shape)
