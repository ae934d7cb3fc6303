"""One batch of a diffusion model's samples, by its own `draw`, or the `sample` of a model of a user's own."""

from typing import Any

import torch
from torch import Tensor

from evaluation.opened import Opened
from evaluation.prompt import Template
from evaluation.sampling import Request
from training.errors import UnfitError


def draw_tokens(
    run: Opened, lengths: Tensor, cond: Tensor | None, template: Template | None, generator: torch.Generator
) -> tuple[list[list[int]], list[int | None]]:
    """A row of tokens for each of `lengths` int64 [count], and the network calls of each where the model counts them.

    `cond` is the condition of each, see `conditions_of`.
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


def conditions_of(run: Opened, request: Request, count: int) -> Tensor | None:
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
