"""A diffusion model's samples, by its own `draw`, or the `sample` of a model of a user's own."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from evaluation.opened import LoadedRun
from evaluation.prompt import Template, read_template
from evaluation.sample import Request, Sample, decode_sample
from training.errors import UnfitError
from training.length_counts import LONGEST


def draw_diffusion_samples(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    """`generation.num_samples` samples in batches, as long as the request, the template or the training data say."""
    from evaluation.sample_lengths import drawn_lengths, has_drawn_lengths

    tokenizer, count = run.needs_tokenizer(), run.generation.num_samples
    is_whole = getattr(run.entry, "layout", None) == "whole"
    template = None
    if prompt is None and request.length is None and has_drawn_lengths(run):
        lengths = drawn_lengths(run, count, request.seed)
    else:
        before = [tokenizer.bos_token_id] if is_whole else []
        length = sample_length(run, request)
        template = None if prompt is None else read_template(prompt, tokenizer, length, before)
        lengths = torch.full((count,), length)
    cond = parse_condition(run, request, count)
    parts = torch.split(lengths, request.batch_size)
    told = [None] * len(parts) if cond is None else torch.split(cond, request.batch_size)
    for part, part_cond in zip(parts, told, strict=True):
        tokens, calls = draw_tokens(run, part, part_cond, template, generator)
        if is_whole:  # what stands behind the end of a document was never trained, but for what the prompt has there
            kept = 0 if template is None else template.end
            yield [decode_sample(row, prompt, tokenizer, call, kept) for row, call in zip(tokens, calls, strict=True)]
        else:
            yield [Sample(tokenizer.decode(row), prompt, row, call) for row, call in zip(tokens, calls, strict=True)]


def sample_length(run: LoadedRun, request: Request) -> int:
    """Tokens of a diffusion model's sample; raises UnfitError where neither file nor request says."""
    own = getattr(getattr(run.config.model, "config", None), "length", None)
    found = request.length or own or getattr(run.entry, "limit", None)
    if found is None:
        raise UnfitError(f"{run.folder}: nothing says how long samples are; give --length N, the number of tokens")
    if found > LONGEST:
        raise UnfitError(f"{run.folder}: samples of {found:,} tokens are asked for, and the most is {LONGEST:,}")
    return int(found)


def draw_tokens(
    run: LoadedRun, lengths: Tensor, cond: Tensor | None, template: Template | None, generator: torch.Generator
) -> tuple[list[list[int]], list[int | None]]:
    """A row of tokens for each of `lengths` int64 [count], and the network calls of each where the model counts them.

    `cond` is the condition of each, see `parse_condition`.
    """
    settings, count, length = run.generation, len(lengths), int(lengths.max())
    options: dict[str, Any] = {"steps": settings.steps, "sampler": settings.sampler_choice, "top_p": settings.top_p}
    options |= {"guidance": settings.guidance, "cond": cond}
    options = {name: value for name, value in options.items() if value is not None}
    if settings.temperature != 1.0:
        options["temperature"] = settings.temperature
    if settings.top_k is not None:
        raise UnfitError("generation.top_k is of decoders and translators; diffusion models take top_p or temperature")
    if template is not None:
        options["prompt"] = torch.tensor(template.tokens, device=run.device)
        options["frozen"] = torch.tensor(template.kept, device=run.device)
    if bool((lengths < length).any()):
        options["mask"] = (torch.arange(length) < lengths[:, None]).to(run.device)
    if hasattr(run.model, "draw"):
        state = run.model.draw(count, length, generator=generator, **options)  # type: ignore[operator]
        return _cut(state.tokens, lengths), state.network_calls.tolist()
    tokens = run.model.sample(count, length, generator=generator, **options)  # type: ignore[operator]
    return _cut(tokens, lengths), [None] * count


def _cut(tokens: Tensor, lengths: Tensor) -> list[list[int]]:
    """Rows of tokens without the padding behind them."""
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def parse_condition(run: LoadedRun, request: Request, count: int) -> Tensor | None:
    """The condition of each sample: classes int64 [count], or properties float32 [count, size]; None without any.

    Those of `request.cond` are taken in turn. Raises UnfitError for a text that is no condition of this model.
    """
    section = getattr(getattr(run.config.model, "config", None), "condition", None)
    text = request.condition
    if request.cond is not None:
        return request.cond[torch.arange(count) % len(request.cond)].to(run.device)
    if text is None:
        return None
    if section is None:
        raise UnfitError(f"--condition {text}: this model was trained without a condition")
    size = 1 if section.num_classes is not None else section.size
    try:
        numbers = [int(text)] if section.num_classes is not None else [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != size or (section.num_classes is not None and not 0 <= numbers[0] < section.num_classes):
        fits = (
            f"a class from 0 to {section.num_classes - 1}" if section.num_classes else f"{size} numbers, as in 0.1,2.5"
        )
        raise UnfitError(f"--condition {text}: this model takes {fits}")
    row = torch.tensor(numbers, device=run.device)
    return row.expand(count) if section.num_classes is not None else row.expand(count, size)
