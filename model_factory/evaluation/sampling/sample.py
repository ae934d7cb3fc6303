"""Requests for samples, the samples, and how tokens are chosen and decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from model_factory.diffusion.randomness import Randomness

if TYPE_CHECKING:
    from data_manager.tokenizers.base import Tokenizer
    from model_factory.evaluation.run import LoadedRun

BATCH = 64
Track = Callable[[int], object]
MASKED = "_"
"""Shown in place of a token that is not denoised yet."""


@dataclass(frozen=True)
class Partial:
    """Text of a sample while it is drawn, with MASKED for each of its `masked` tokens that are not denoised yet."""

    text: str
    masked: int = 0


Watch = Callable[[Callable[[], list[Partial]]], object]
"""Called after each token of a decoder, and each step of a diffusion model, with a function that returns the texts of the
batch so far. An error that it raises ends the draw."""


@dataclass(frozen=True)
class Request:
    """Request for samples, beside the `generation` section: prompts (without any, unprompted samples) and a seed.

    `length` is that of a diffusion model's samples; without it, samples that are whole documents have lengths drawn from
    the training data. The condition is text in `condition`, a class or numbers with commas between them, or a tensor in
    `cond`, [n] or [n, size], for several samples.
    """

    prompts: tuple[str, ...] = ()
    seed: int = 0
    length: int | None = None
    condition: str | None = None
    cond: Tensor | None = None
    batch_size: int = BATCH
    watch: Watch | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Sample:
    """Sampled text with its tokens and network calls; a continuation is without its prompt.

    `latent` [size] is that of a latent diffusion model.
    """

    text: str
    prompt: str | None
    tokens: list[int]
    network_calls: int | None = None
    latent: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass
class Samples:
    """Samples, prompt by prompt, and notes on them."""

    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def batch_sizes(count: int, size: int) -> Iterator[int]:
    """Yield the sizes of the batches of `count` samples, at most `size` each."""
    for first in range(0, count, size):
        yield min(size, count - first)


def decoding_options(run: "LoadedRun", generator: Randomness) -> dict[str, Any]:
    """Return the keyword arguments that set how the next token is chosen."""
    settings, tokenizer = run.generation, run.require_tokenizer()
    return {
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "num_beams": settings.num_beams,
        "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id,
        "generator": generator,
    }


def watch_tokens(watch: Watch | None, read: Callable[[list[int]], str]) -> dict[str, Any]:
    """Return the keyword argument `watch` of a decoder's `generate`; `read` decodes the new tokens of a row."""
    if watch is None:
        return {}
    return {"watch": lambda tokens: watch(lambda: [Partial(read(row)) for row in tokens.tolist()])}


def decode_sample(
    tokens: list[int],
    prompt: str | None,
    tokenizer: "Tokenizer",
    calls: int | None = None,
    kept: int = 0,
    behind: str = "",
) -> Sample:
    """Decode tokens up to the first end token at or after position `kept`.

    `behind` are the spaces at the prompt's end that its tokens leave out, and with which the text need not begin again.
    """
    ends = (position for position, token in enumerate(tokens) if position >= kept and token == tokenizer.eos_token_id)
    end = next(ends, len(tokens))
    return Sample(tokenizer.decode(tokens[:end]).removeprefix(behind), prompt, tokens[:end], calls)
