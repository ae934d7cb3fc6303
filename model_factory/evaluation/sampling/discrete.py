"""Sampling from diffusion models: by the model's `draw`, or by `sample` of a custom model."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from data_manager.errors import DataError
from model_factory.diffusion.randomness import Randomness
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.prompt import Template, check_blocks, read_template
from model_factory.evaluation.sampling.sample import Request, Sample, decode_sample
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed
from model_factory.training.run.data_hashes import LONGEST, count_lengths, read_lengths
from model_factory.training.run.folder import RunFolder
from model_factory.training.splits import load_splits, select_splits


def draw_diffusion_samples(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    """Yield `generation.num_samples` samples in batches; the request, the prompt or the training data set their length."""
    tokenizer, count = run.require_tokenizer(), run.generation.num_samples
    is_document = getattr(run.dataset_config, "document_rows", False)
    template = None
    if prompt is None and request.length is None and has_drawn_lengths(run):
        lengths = draw_lengths(run, count, request.seed)
    else:
        length = resolve_sample_length(run, request)
        template = None if prompt is None else read_prompt(run, prompt, length)
        lengths = torch.full((count,), length)
    cond = parse_condition(run, request, count)
    parts = torch.split(lengths, request.batch_size)
    conds = [None] * len(parts) if cond is None else torch.split(cond, request.batch_size)
    for part, part_cond in zip(parts, conds, strict=True):
        tokens, calls = draw_tokens(run, part, part_cond, template, generator)
        if is_document:  # tokens after a document's end were never trained, so only those of the prompt are kept
            kept = 0 if template is None else template.end
            yield [decode_sample(row, prompt, tokenizer, call, kept) for row, call in zip(tokens, calls, strict=True)]
        else:
            yield [Sample(tokenizer.decode(row), prompt, row, call) for row, call in zip(tokens, calls, strict=True)]


def read_prompt(run: LoadedRun, prompt: str, length: int) -> Template:
    """Parse a prompt to a sample of `length` tokens; raises PromptError for one that is invalid, long, or not drawable."""
    tokenizer = run.require_tokenizer()
    is_whole = getattr(run.dataset_config, "layout", None) == "whole"
    template = read_template(prompt, tokenizer, length, [tokenizer.bos_token_id] if is_whole else [])
    block_size = getattr(run.model, "block_size", None)
    if block_size is not None:
        check_blocks(template, block_size)
    return template


def resolve_sample_length(run: LoadedRun, request: Request) -> int:
    """Return the number of tokens of a sample; raises UnfitError where neither the file nor the request sets it."""
    model_length = getattr(getattr(run.config.model, "config", None), "length", None)
    found = request.length or model_length or getattr(run.dataset_config, "limit", None)
    if found is None:
        raise UnfitError(f"{run.folder}: the length of samples is not set; give --length N, the number of tokens")
    if found > LONGEST:
        raise UnfitError(f"{run.folder}: samples of {found:,} tokens were requested, and the maximum is {LONGEST:,}")
    return int(found)


def draw_tokens(
    run: LoadedRun,
    lengths: Tensor,
    cond: Tensor | None,
    template: Template | Sequence[Template] | None,
    generator: Randomness,
) -> tuple[list[list[int]], list[int | None]]:
    """Draw a row of tokens for each of `lengths` int64 [count]; also return each one's network calls, None if not counted.

    `cond` holds the condition of each sample, see `parse_condition`; `template` is that of all samples, or one for each.
    """
    settings, count, length = run.generation, len(lengths), int(lengths.max())
    options: dict[str, Any] = {"steps": settings.steps, "sampler": settings.sampler_choice, "top_p": settings.top_p}
    options |= {"guidance": settings.guidance, "cond": cond}
    options = {name: value for name, value in options.items() if value is not None}
    if settings.temperature != 1.0:
        options["temperature"] = settings.temperature
    if settings.top_k is not None:
        raise UnfitError(
            "generation.top_k is for decoders and translators; a diffusion model takes top_p or temperature"
        )
    if template is not None:
        each = template if isinstance(template, Sequence) else [template]
        shape = (-1,) if isinstance(template, Template) else (len(each), -1)
        options["prompt"] = torch.tensor([one.tokens for one in each], device=run.device).reshape(shape)
        options["frozen"] = torch.tensor([one.kept for one in each], device=run.device).reshape(shape)
    if bool((lengths < length).any()):
        options["mask"] = (torch.arange(length) < lengths[:, None]).to(run.device)
    if hasattr(run.model, "draw"):
        state = run.model.draw(count, length, generator=generator, **options)  # type: ignore[operator]
        return _cut(state.tokens, lengths), state.network_calls.tolist()
    tokens = run.model.sample(count, length, generator=generator, **options)  # type: ignore[operator]
    return _cut(tokens, lengths), [None] * count


def _cut(tokens: Tensor, lengths: Tensor) -> list[list[int]]:
    """Cut the padding off the end of each row of tokens [count, L]."""
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def parse_condition(run: LoadedRun, request: Request, count: int) -> Tensor | None:
    """Return the condition of each sample: classes int64 [count], or properties float32 [count, size]; None without one.

    The rows of `request.cond` are taken in turn. Raises UnfitError for a text that is not a valid condition.
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


# Default lengths of diffusion samples: drawn from the lengths of the training documents.


_LENGTHS = 41


def has_drawn_lengths(run: LoadedRun) -> bool:
    """Return True if the model learned single documents of named data and can mask positions after a document's end."""
    draw: Any = getattr(run.model, "draw", None) or getattr(run.model, "sample", None)
    if not getattr(run.dataset_config, "document_rows", False) or draw is None or not run.has_data:
        return False
    parameters = inspect.signature(draw).parameters.values()
    return any(parameter.name == "mask" or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def draw_lengths(run: LoadedRun, count: int, seed: int) -> Tensor:
    """Draw lengths int64 [count] of training documents with replacement; only the seed decides them.

    Raises RunFolderError for a damaged file, UnfitError where neither the run's folder nor its data set has lengths.
    """
    counts = _counts(run)
    generator = torch.Generator().manual_seed(mix_seed(seed, _LENGTHS))
    weights = torch.tensor(list(counts.values()), dtype=torch.float64)
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    return torch.tensor(list(counts))[chosen]


def _counts(run: LoadedRun) -> dict[int, int]:
    """Read the counts of lengths in the run's folder, or count those of the data set."""
    path = RunFolder(run.folder).lengths
    if path.is_file():
        return read_lengths(path)
    try:
        splits = select_splits(load_splits(run.dataset_config), run.training, run.dataset_config.name)
    except DataError as error:
        raise UnfitError(
            f"lengths of samples are drawn from the data, and {path} is not there; give --length N, the number of tokens, "
            f"or the data: {error}"
        ) from error
    return count_lengths(splits.sample)
