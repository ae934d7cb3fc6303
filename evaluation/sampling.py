"""Texts from a trained run: prompts continued, translated or filled in, and samples from nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evaluation.opened import Opened
from evaluation.prompt import PromptError, check_prompts, unknown_note, without_holes
from training.errors import UnfitError

if TYPE_CHECKING:
    from data_manager.tokenizer_base import Tokenizer
    from evaluation.exact_counts import Kind

BATCH = 64
Track = Callable[[int], object]
_OTHERS = ("language_modelling", "translation", "latent_diffusion")
"""Tasks that generate otherwise than by a diffusion of tokens."""


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


def draw(run: Opened, request: Request, track: Track = lambda count: None) -> Samples:
    """`generation.num_samples` samples for each prompt, or without one; `track` is told of each batch's size.

    Raises UnfitError for a run that does not generate and for prompts that do not fit, InputError and
    DiffusionInputError for settings that do not.
    """
    tokenizer = run.needs_tokenizer()
    kind = _kind(run)
    check_prompts(request.prompts)
    if run.task_name in _OTHERS and (request.length is not None or request.condition is not None):
        option = "--condition" if request.length is None else "--length"
        instead = (
            "this one takes no condition"
            if request.length is None
            else "how many tokens it writes is said by --set generation.max_new_tokens=N"
        )
        raise UnfitError(
            f"{option} is of diffusion models of tokens, and {run.folder} is a run of task {run.task_name}; {instead}"
        )
    found = Samples()
    texts = map(without_holes, request.prompts) if run.task_name == "diffusion" else request.prompts
    found.notes += filter(None, (unknown_note(text, tokenizer) for text in texts))
    generator = torch.Generator(device=run.device).manual_seed(request.seed)
    for prompt in request.prompts or (None,):
        for samples in _drawn(kind, run, request, prompt, generator, found.notes):
            found.samples += samples
            track(len(samples))
    if kind is _continue and not request.prompts:
        found.notes.append("without --prompt a text begins behind the token that ends or begins documents")
    return found


def _drawn(
    kind: "Kind",
    run: Opened,
    request: Request,
    prompt: str | None,
    generator: torch.Generator,
    notes: list[str],
) -> Iterator[list[Sample]]:
    """The samples of a prompt; where `generation.exactly` asks for it, those alone that hold it."""
    if run.generation.exactly is None:
        return kind(run, request, prompt, generator)
    from evaluation.exact_counts import kept_samples

    return kept_samples(kind, run, request, prompt, generator, notes)


def _kind(run: Opened) -> "Kind":
    """What generates from a run of its task."""
    if run.task_name == "language_modelling":
        return _continue
    if run.task_name == "translation":
        return _translate
    if run.task_name == "latent_diffusion":
        from evaluation.latent_draw import diffuse_latents

        return diffuse_latents
    if hasattr(run.model, "draw") or hasattr(run.model, "sample"):
        from evaluation.diffusion_draw import diffuse

        return diffuse
    raise UnfitError(
        f"{run.folder}: a run of task {run.task_name} does not generate; decoders, translators and diffusion models do, "
        "and evaluate.py shows what this one can"
    )


def _batches(count: int, size: int) -> Iterator[int]:
    for first in range(0, count, size):
        yield min(size, count - first)


def _continue(run: Opened, request: Request, prompt: str | None, generator: torch.Generator) -> Iterator[list[Sample]]:
    tokenizer, settings, model = run.needs_tokenizer(), run.generation, run.model
    start = begin(run, prompt, tokenizer)
    longest = getattr(model.params, "max_length", None)
    new = settings.max_new_tokens if longest is None else max(1, min(settings.max_new_tokens, longest - len(start)))
    for count in _batches(settings.num_samples, request.batch_size):
        prompts = torch.tensor([start] * count, device=run.device)
        tokens = model.generate(prompts, new, **choice_of(run, generator))  # type: ignore[operator]
        yield [sample_of(row[len(start) :], prompt, tokenizer) for row in tokens.tolist()]


def begin(run: Opened, prompt: str | None, tokenizer: "Tokenizer") -> list[int]:
    """Tokens that a text begins with: those of the prompt, behind the token that stands in front of documents.

    Rows that are whole documents have one of their own there; else a document stands behind the end of another one.
    """
    is_whole = getattr(run.entry, "layout", None) == "whole"
    ids = [] if prompt is None else tokenizer.encode(prompt)
    if is_whole:
        return [tokenizer.bos_token_id, *ids]
    return ids or [tokenizer.eos_token_id]


def _translate(run: Opened, request: Request, prompt: str | None, generator: torch.Generator) -> Iterator[list[Sample]]:
    if prompt is None:
        raise PromptError(f"{run.folder}: a translator needs a text to translate: --prompt TEXT")
    tokenizer, settings = run.needs_tokenizer(), run.generation
    source = [tokenizer.bos_token_id, *tokenizer.encode(prompt), tokenizer.eos_token_id]
    for count in _batches(settings.num_samples, request.batch_size):
        yield [sample_of(row, prompt, tokenizer) for row in translate(run, [source] * count, generator)]


def translate(run: Opened, sources: list[list[int]], generator: torch.Generator | None) -> list[list[int]]:
    """Target tokens of source rows, each with the tokens around it that rows have, as `generation` asks."""
    from data_manager.collation import pad_rows

    tokenizer = run.needs_tokenizer()
    padded, mask = (tensor.to(run.device) for tensor in pad_rows(sources, tokenizer.pad_token_id))
    tokens: Tensor = run.model.generate(  # type: ignore[operator]
        padded, tokenizer.bos_token_id, run.generation.max_new_tokens, source_mask=mask, **choice_of(run, generator)
    )
    found: list[list[int]] = tokens.tolist()
    return found


def choice_of(run: Opened, generator: torch.Generator | None) -> dict[str, Any]:
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


def sample_of(
    tokens: list[int], prompt: str | None, tokenizer: "Tokenizer", calls: int | None = None, kept: int = 0
) -> Sample:
    """The text of tokens up to the one that ends it; the first `kept` of them belong to it whatever they are."""
    ends = (place for place, token in enumerate(tokens) if place >= kept and token == tokenizer.eos_token_id)
    end = next(ends, len(tokens))
    return Sample(tokenizer.decode(tokens[:end]), prompt, tokens[:end], calls)
