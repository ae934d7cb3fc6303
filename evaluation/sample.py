"""Requests for samples, the samples, and how tokens are chosen and decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from data_manager.tokenizers import Tokenizer
    from evaluation.opened import LoadedRun

BATCH = 64
Track = Callable[[int], object]


@dataclass(frozen=True)
class Request:
    """What is asked for beside the `generation` section: prompts (none: from nothing) and a seed.

    `length` of a diffusion model's samples (where they are whole documents and nothing is said, each has a length of
    the training data); `condition` as text: a class, or numbers with commas between them; or `cond`, those of several
    samples as a model takes them, [n] or [n, size].
    """

    prompts: tuple[str, ...] = ()
    seed: int = 0
    length: int | None = None
    condition: str | None = None
    cond: Tensor | None = None
    batch_size: int = BATCH


@dataclass(frozen=True)
class Sample:
    """A text (of a continuation, what follows the prompt) with its tokens and the network calls that it took.

    `latent` is that of a latent diffusion model, [size].
    """

    text: str
    prompt: str | None
    tokens: list[int]
    network_calls: int | None = None
    latent: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass
class Samples:
    """Samples, prompt by prompt, and what is to be said about them."""

    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def batch_sizes(count: int, size: int) -> Iterator[int]:
    """Yield the sizes of the batches of `count` samples, at most `size` each."""
    for first in range(0, count, size):
        yield min(size, count - first)


def decoding_options(run: "LoadedRun", generator: torch.Generator | None) -> dict[str, Any]:
    """How the next token is chosen."""
    settings, tokenizer = run.generation, run.needs_tokenizer()
    return {
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "num_beams": settings.num_beams,
        "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id,
        "generator": generator,
    }


def decode_sample(
    tokens: list[int], prompt: str | None, tokenizer: "Tokenizer", calls: int | None = None, kept: int = 0
) -> Sample:
    """The text of tokens up to the one that ends it; the first `kept` of them belong to it whatever they are."""
    ends = (place for place, token in enumerate(tokens) if place >= kept and token == tokenizer.eos_token_id)
    end = next(ends, len(tokens))
    return Sample(tokenizer.decode(tokens[:end]), prompt, tokens[:end], calls)
