"""Sampling from a trained run: continuation, translation and infilling of prompts, and unprompted samples."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data_manager.rows.collate import pad_rows
from model_factory.diffusion.randomness import Randomness
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.discrete import draw_diffusion_samples
from model_factory.evaluation.sampling.given import has_given, prompt_texts, read_given
from model_factory.evaluation.sampling.prompt import (
    Given,
    PromptError,
    check_prompts,
    encode_around_holes,
    unknown_characters_note,
)
from model_factory.evaluation.sampling.rejection import draw_with_rejection
from model_factory.evaluation.sampling.sample import (
    Request,
    Sample,
    Samples,
    Track,
    Watch,
    batch_sizes,
    decode_sample,
    decoding_options,
    watch_tokens,
)
from model_factory.evaluation.sampling.targets import TASK as TARGETS
from model_factory.evaluation.sampling.targets import draw_for_prompt
from model_factory.training.errors import UnfitError

if TYPE_CHECKING:
    from model_factory.evaluation.sampling.rejection import DrawSamples

_OTHERS = ("language_modelling", "translation", TARGETS, "latent_diffusion", "speech_recognition", "diarization")
"""Tasks whose samples take neither a length nor a condition from the command line."""


def draw(run: LoadedRun, request: Request, track: Track = lambda count: None) -> Samples:
    """Draw `generation.num_samples` samples per prompt, or unprompted; call `track` with the size of each batch.

    Raises UnfitError for a run that cannot generate and for invalid prompts, InputError and DiffusionInputError for
    invalid settings.
    """
    tokenizer = run.require_tokenizer()
    draw_samples = sampler_for(run)
    check_prompts(request.prompts)
    check_request(run, request)
    found = Samples()
    texts = (prompt_texts(run, prompt) for prompt in request.prompts)
    found.notes += filter(None, (unknown_characters_note(parts, tokenizer) for parts in texts))
    generator = torch.Generator(device=run.device).manual_seed(request.seed)
    for prompt in request.prompts or (None,):
        for samples in _draw_prompt(draw_samples, run, request, prompt, generator, found.notes):
            found.samples += samples
            track(len(samples))
    if draw_samples is _continue and not request.prompts and not has_given(run):
        found.notes.append("without --prompt a text begins after the token that ends or begins documents")
    return found


def check_request(run: LoadedRun, request: Request) -> None:
    """Raise UnfitError for a length or a condition that a run of this task does not take."""
    if run.task_name in _OTHERS and (request.length is not None or request.condition is not None):
        option = "--condition" if request.length is None else "--length"
        instead = "this one takes no condition"
        if request.length is not None:
            instead = "set the number of tokens by --set generation.max_new_tokens=N"
            instead = "its targets have the length that it learnt" if run.task_name == TARGETS else instead
        raise UnfitError(
            f"{option} is for diffusion models of tokens, and {run.folder} is a run of task {run.task_name}; {instead}"
        )


def _draw_prompt(
    draw_samples: "DrawSamples",
    run: LoadedRun,
    request: Request,
    prompt: str | None,
    generator: torch.Generator,
    notes: list[str],
) -> Iterator[list[Sample]]:
    """Draw the samples of a prompt, by rejection sampling where `generation.exactly` is set."""
    if run.generation.exactly is None:
        return draw_samples(run, request, prompt, generator)

    return draw_with_rejection(draw_samples, run, request, prompt, generator, notes)


def sampler_for(run: LoadedRun) -> "DrawSamples":
    """Return the function that draws samples from a run of this task."""
    if run.task_name == "language_modelling":
        return _continue
    if run.task_name == "translation":
        return _translate
    if run.task_name == TARGETS:
        return draw_for_prompt
    if run.task_name == "latent_diffusion":
        from model_factory.evaluation.sampling.latent import draw_latent_samples

        return draw_latent_samples
    if hasattr(run.model, "draw") or hasattr(run.model, "sample"):
        return draw_diffusion_samples
    raise UnfitError(
        f"{run.folder}: a run of task {run.task_name} cannot generate; decoders, translators and diffusion models can; "
        "measure this run with evaluate.py"
    )


def _continue(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    tokenizer, settings, model = run.require_tokenizer(), run.generation, run.model
    given, spaces = encode_start(run, prompt)
    start = given.ids
    longest = getattr(model.params, "max_length", None)
    new = settings.max_new_tokens if longest is None else max(1, min(settings.max_new_tokens, longest - len(start)))
    for count in batch_sizes(settings.num_samples, request.batch_size):
        prompts = torch.tensor([start] * count, device=run.device)
        watch = watch_tokens(
            request.watch, lambda row: given.around(decode_sample(row, None, tokenizer, behind=spaces).text)
        )
        options = decoding_options(run, generator) | watch
        tokens = model.generate(prompts, new, **options)  # type: ignore[operator]
        found = [decode_sample(row[len(start) :], prompt, tokenizer, behind=spaces) for row in tokens.tolist()]
        yield [replace(one, text=given.around(one.text)) for one in found]


def encode_start(run: LoadedRun, prompt: Any) -> tuple[Given, str]:
    """Encode the prompt to the tokens that a text begins with; return also the spaces at its end that they leave out.

    Rows that are whole documents begin with the begin token. In other rows a document follows the end token of the one
    before: a text without a prompt begins after an end token, and every text where documents are isolated.
    """
    config, tokenizer = run.dataset_config, run.require_tokenizer()
    given = read_given(run, prompt)
    if given is not None and given.size is not None:
        raise PromptError("a decoder draws its text until it ends, so a hole has no size; write [[*]]")
    if given is not None:
        return given, ""
    ids, spaces = encode_around_holes(prompt or "", tokenizer)
    if getattr(config, "layout", None) == "whole":
        return Given([tokenizer.bos_token_id, *ids]), spaces
    isolated = getattr(config, "document_ids", False) or not ids
    return Given([tokenizer.eos_token_id, *ids] if isolated else ids), spaces


def _translate(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    if prompt is None:
        raise PromptError(f"{run.folder}: a translator needs a text to translate: --prompt TEXT")
    tokenizer, settings = run.require_tokenizer(), run.generation
    source = [tokenizer.bos_token_id, *tokenizer.encode(prompt), tokenizer.eos_token_id]
    for count in batch_sizes(settings.num_samples, request.batch_size):
        rows = translate(run, [source] * count, generator, request.watch)
        yield [decode_sample(row, prompt, tokenizer) for row in rows]


def translate(
    run: LoadedRun, sources: list[list[int]], generator: Randomness, watch: Watch | None = None
) -> list[list[int]]:
    """Generate the target tokens of source rows, which include begin and end tokens, with the settings of `generation`."""
    tokenizer = run.require_tokenizer()
    padded, mask = (tensor.to(run.device) for tensor in pad_rows(sources, tokenizer.pad_token_id))
    tokens: Tensor = run.model.generate(  # type: ignore[operator]
        padded,
        tokenizer.bos_token_id,
        run.generation.max_new_tokens,
        source_mask=mask,
        **decoding_options(run, generator),
        **watch_tokens(watch, lambda row: decode_sample(row, None, tokenizer).text),
    )
    found: list[list[int]] = tokens.tolist()
    return found
