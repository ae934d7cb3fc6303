"""Sampling from diffusion models: by the model's `draw`, or by `sample` of a custom model."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from data_manager.errors import DataError
from model_factory.diffusion.randomness import Randomness
from model_factory.diffusion.samplers.state import SamplerState
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.given import has_given, place_given, read_given
from model_factory.evaluation.sampling.prompt import PromptError, Template, check_blocks, read_template
from model_factory.evaluation.sampling.sample import Request, Sample, decode_sample
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed
from model_factory.training.run.data_hashes import LONGEST, count_lengths, read_lengths
from model_factory.training.run.folder import RunFolder
from model_factory.training.splits import load_splits, select_splits
from model_factory.training.tasks.diffusion import inserts_tokens


def draw_diffusion_samples(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    """Yield `generation.num_samples` samples in batches; the request, the prompt or the training data set their length."""
    count = run.generation.num_samples
    template = None
    if not has_given(run) and prompt is None and request.length is None and has_drawn_lengths(run):
        lengths = draw_lengths(run, count, request.seed)
    else:
        length = resolve_sample_length(run, request)
        template = read_prompt(run, prompt, length)
        lengths = torch.full((count,), length)
    cond = parse_condition(run, request, count)
    parts = torch.split(lengths, request.batch_size)
    conds = [None] * len(parts) if cond is None else torch.split(cond, request.batch_size)
    for part, part_cond in zip(parts, conds, strict=True):
        tokens, calls = draw_tokens(run, part, part_cond, template, generator)
        yield [read_sample(run, row, prompt, call, template) for row, call in zip(tokens, calls, strict=True)]


def read_sample(
    run: LoadedRun, row: list[int], prompt: str | None, calls: int | None, template: Template | None
) -> Sample:
    """Decode a drawn row; a response is put between the texts that are given with it."""
    tokenizer = run.require_tokenizer()
    given = None if template is None else template.given
    if given is not None:
        found = decode_sample(row[len(given.ids) :], prompt, tokenizer, calls)
        return replace(found, text=given.around(found.text))
    if not getattr(run.dataset_config, "document_rows", False):
        return Sample(tokenizer.decode(row), prompt, row, calls)
    # tokens after a document's end were never trained, so only those of the prompt are kept
    return decode_sample(row, prompt, tokenizer, calls, 0 if template is None else template.end)


def read_prompt(run: LoadedRun, prompt: Any, length: int) -> Template | None:
    """Parse a prompt to a sample of `length` tokens; None without a prompt, for a run whose rows have no given part.

    Raises PromptError for one that is invalid, long, or not drawable.
    """
    if prompt is not None and inserts_tokens(run.model):
        raise PromptError(
            "a model that inserts tokens begins with an empty text, and has no distribution given a prompt; leave "
            "--prompt out, or use a run of another objective, such as mdlm"
        )
    tokenizer = run.require_tokenizer()
    is_whole = getattr(run.dataset_config, "layout", None) == "whole"
    given = read_given(run, prompt)
    if given is not None:
        template = place_given(given, length, tokenizer.eos_token_id)
    elif prompt is None:
        return None
    else:
        template = read_template(prompt, tokenizer, length, [tokenizer.bos_token_id] if is_whole else [])
    block_size = getattr(run.model, "block_size", None)
    if block_size is not None:
        check_blocks(template, block_size)
    return template


def resolve_sample_length(run: LoadedRun, request: Request) -> int:
    """Return the number of tokens of a sample; raises UnfitError where neither the file nor the request sets it."""
    if has_given(run):
        return _canvas_length(run, request)
    model_length = getattr(getattr(run.config.model, "config", None), "length", None)
    found = request.length or model_length or getattr(run.dataset_config, "limit", None)
    if found is None:
        raise UnfitError(f"{run.folder}: the length of samples is not set; give --length N, the number of tokens")
    if found > LONGEST:
        raise UnfitError(f"{run.folder}: samples of {found:,} tokens were requested, and the maximum is {LONGEST:,}")
    return int(found)


def _canvas_length(run: LoadedRun, request: Request) -> int:
    """Return the number of tokens of a row with its response; raises UnfitError for another than the run has learnt."""
    config: Any = run.dataset_config
    if not config.is_filled and request.length is None:
        raise UnfitError(
            f"{run.folder} was trained with fill: hidden, so it knows the responses of each length, but not how likely a length "
            "is after a prompt; give --length N, the tokens of prompt and response, or train with fill: end"
        )
    is_blockwise = getattr(run.model, "block_size", None) is not None
    if config.is_filled and request.length not in (None, config.limit) and not is_blockwise:
        raise UnfitError(
            f"--length {request.length}: the rows of {run.folder} have {config.limit} tokens, on which it has learnt where "
            "responses end; leave --length out"
        )
    return int(request.length or config.limit)


def draw_tokens(
    run: LoadedRun,
    lengths: Tensor,
    cond: Tensor | None,
    template: Template | Sequence[Template] | None,
    generator: Randomness,
    watch: Callable[[SamplerState], object] | None = None,
) -> tuple[list[list[int]], list[int | None]]:
    """Draw a row of tokens for each of `lengths` int64 [count]; also return each one's network calls, None if not counted.

    `cond` holds the condition of each sample, see `parse_condition`; `template` is that of all samples, or one for each;
    `watch` is called with the state after each step.
    """
    settings, count, length = run.generation, len(lengths), int(lengths.max())
    options: dict[str, Any] = {"steps": settings.steps, "sampler": settings.sampler_choice, "top_p": settings.top_p}
    options |= {"guidance": settings.guidance, "cond": cond, "watch": watch}
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
    """Cut the padding off the end of each row of tokens [count, L]; negative ids are after the end of a row."""
    rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
    return [[token for token in row[:length] if token >= 0] for row, length in rows]


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
    if inserts_tokens(run.model):
        return False
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
