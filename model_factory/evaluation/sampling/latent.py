"""Latents of a latent diffusion model: encode texts, draw from the diffusion or the prior, decode to texts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from data_manager.rows.collate import pad_rows
from model.latent.model import LatentDiffusionModel
from model.latent.variational import reparameterise
from model_factory.diffusion.randomness import RowGenerators, normal
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.prompt import (
    PromptError,
    encode_around_holes,
    refuse_lone_surrogates,
    unknown_characters_note,
)
from model_factory.evaluation.sampling.sample import (
    BATCH,
    Partial,
    Request,
    Sample,
    Samples,
    Watch,
    decode_sample,
    decoding_options,
    watch_tokens,
)
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed
from model_factory.training.tasks.base import real_tokens
from model_factory.training.tasks.latent_diffusion import LatentDiffusion

TASK = "latent_diffusion"


AT_ONCE = 4096
"""Batch size of drawing latents; it affects only the memory."""


_SHOWN = 40


_ROWS = 61


def latent_model(run: LoadedRun) -> LatentDiffusionModel:
    """Return the latent diffusion model of a run; raises UnfitError for a run of another task."""
    if run.task_name != TASK or not isinstance(run.model, LatentDiffusionModel):
        raise UnfitError(
            f"{run.folder}: a run of task {run.task_name} has no latents; give a run of task {TASK}, which train.py "
            f"trains from a file with model_type: {TASK}"
        )
    return run.model


def draw_latent_samples(
    run: LoadedRun, request: Request, prompt: str | None, generator: torch.Generator
) -> Iterator[list[Sample]]:
    """Draw `generation.num_samples` latents by the diffusion and decode them, from the prompt if there is one.

    All latents are drawn before the first is decoded, so that the batch size of decoding changes no greedy text and no
    beam. Tokens at a temperature are drawn batch by batch.
    """
    if prompt is not None and "[[" in prompt:
        raise PromptError(
            "[[N]] is a hole for discrete diffusion; a latent model's decoder continues the prompt, so leave the hole out"
        )
    latents = draw_latents(run, run.generation.num_samples, generator, request.watch)
    options: dict[str, Any] = {"generator": generator, "calls": num_steps(run), "watch": request.watch}
    return decode_latents(run, latents, prompt, size=request.batch_size, **options)


def num_steps(run: LoadedRun) -> int:
    """Return the diffusion's network calls per latent: `generation.steps`, or all steps of the model."""
    return run.generation.steps or latent_model(run).latent_config.diffusion.num_steps


def draw_latents(run: LoadedRun, count: int, generator: torch.Generator, watch: Watch | None = None) -> Tensor:
    """Draw latents [count, size] from the diffusion, with the sampler and steps of `generation`.

    Each row has its own random stream, so the first rows do not depend on `count`. `watch` is called after each step, with
    empty texts.
    """
    model, settings = latent_model(run), run.generation
    sampler = settings.sampler_choice or model.latent_config.samplers[0]
    found = []
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)
        streams = RowGenerators.from_generator(generator, size, model.device)
        seen = None if watch is None else partial(watch, partial(_no_texts, count))
        found.append(model.sample_latents(size, settings.steps, sampler, streams, watch=seen))
    return torch.cat(found)


def _no_texts(count: int) -> list[Partial]:
    return [Partial("")] * count


def draw_prior_latents(run: LoadedRun, n: int, seed: int, *, scaled: bool = True) -> Tensor:
    """Draw latents [n, size] from N(0, I) instead of the diffusion, as a baseline; the seed decides them.

    `scaled`: with the mean and the standard deviation of each coordinate in training, where the model keeps them
    (`latent.normalise`); that baseline is harder to beat. Otherwise the prior of the autoencoder itself.
    """
    model = latent_model(run)
    streams = RowGenerators.from_seed(seed, torch.arange(n, device=model.device))
    like = next(model.parameters())
    drawn = normal((n, model.latent_config.latent.size), streams, model.device, like.dtype)
    return drawn if model.normaliser is None or not scaled else model.normaliser.invert(drawn)


def decode_latents(
    run: LoadedRun,
    latents: Tensor,
    prompt: str | None = None,
    *,
    size: int = BATCH,
    generator: torch.Generator | None = None,
    calls: int | None = None,
    at_least: int = 0,
    watch: Watch | None = None,
) -> Iterator[list[Sample]]:
    """Decode latents [n, latent_size] in batches of `size` with the settings of `generation`, each after the prompt.

    `at_least` raises `generation.max_new_tokens` to this number; `watch` is shown the texts without the prompt. Raises
    PromptError for a prompt that is too long.
    """
    model, tokenizer = latent_model(run), run.require_tokenizer()
    ids, spaces = encode_around_holes(prompt or "", tokenizer)
    start = [tokenizer.bos_token_id, *ids]
    new, left = max(run.generation.max_new_tokens, at_least), positions_left(run, prompt)
    if left is not None:
        if left < 1:
            raise PromptError(
                f"the prompt takes {len(start)} tokens with the begin token, and the decoder takes at most "
                f"{left + len(start)} in all; shorten it"
            )
        new = min(new, left)
    options = decoding_options(run, generator)
    options |= watch_tokens(watch, lambda row: decode_sample(row, None, tokenizer, behind=spaces).text)
    for part in torch.split(latents, size):
        prompts = torch.tensor([start] * len(part), device=model.device)
        rows = model.decode(part, prompts, new, **options)
        found = [decode_sample(row[1:], prompt, tokenizer, calls) for row in rows.tolist()]
        yield [replace(sample, latent=latent) for sample, latent in zip(found, part, strict=True)]


def positions_left(run: LoadedRun, prompt: str | None) -> int | None:
    """Return the number of tokens that the decoder's positions leave after a prompt; None for one without a limit."""
    longest = latent_model(run).decoder.transformer.max_length
    return None if longest is None else longest - 1 - len(encode_around_holes(prompt or "", run.require_tokenizer())[0])


def cut_prompt(run: LoadedRun, sample: Sample) -> Sample:
    """Return the part of a sample that follows its prompt."""
    tokenizer = run.require_tokenizer()
    ids, spaces = encode_around_holes(sample.prompt or "", tokenizer)
    tokens = sample.tokens[len(ids) :]
    return replace(sample, tokens=tokens, text=tokenizer.decode(tokens).removeprefix(spaces))


def encode_texts(run: LoadedRun, texts: Sequence[str]) -> Tensor:
    """Encode texts to their mean latents [B, size], each text alone, so that no text affects another.

    Raises PromptError for a text without a token, and for a text longer than the encoder or decoder accepts.
    """
    return torch.cat([_encode_text(run, text) for text in texts])


def _encode_text(run: LoadedRun, text: str) -> Tensor:
    model, tokenizer, task = latent_model(run), run.require_tokenizer(), cast(LatentDiffusion, run.task)
    inner = tokenizer.encode(text)
    if not inner:
        raise PromptError(f"{text!r} has no token of the run's tokenizer; give another text")
    row = [tokenizer.bos_token_id, *inner, tokenizer.eos_token_id]
    _check_length("decoder", len(row), model.decoder.transformer.max_length, text)
    if task.encoder_texts is None:
        _check_length("encoder", len(row), encoder_limit(model), text)
        ids = torch.tensor([row], device=model.device)
        return model.encode(ids, torch.ones_like(ids, dtype=torch.bool))
    encoder_texts = task.encoder_texts
    _check_length("encoder", len(encoder_texts.own(text, verbose=False)["input_ids"]), encoder_limit(model), text)
    return model.encode(*encoder_texts.encode_texts([text], model.device))


def encode_moments(run: LoadedRun, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Encode a batch of the data set's rows to mu and logvar [B, size]."""
    read = cast(LatentDiffusion, run.task).encoder_inputs(batch)
    return latent_model(run).moments(*(read or (batch["input_ids"], real_tokens(batch))))


@torch.no_grad()
def encode_rows(run: LoadedRun, rows: Sequence[list[int]], seed: int) -> Tensor:
    """Encode rows of tokens to latents float32 [n, size], as the diffusion is trained on them.

    Draws of row i use a random stream of the seed and i.
    """
    return torch.cat(list(_encode_batches(run, rows, seed)))


def _encode_batches(run: LoadedRun, rows: Sequence[list[int]], seed: int) -> Iterator[Tensor]:
    fill = run.require_tokenizer().pad_token_id
    for first in range(0, len(rows), BATCH):
        ids, mask = (part.to(run.device) for part in pad_rows(rows[first : first + BATCH], fill))
        mu, logvar = encode_moments(run, {"input_ids": ids, "attention_mask": mask})
        indices = torch.arange(first, first + len(ids), device=run.device)
        streams = RowGenerators.from_seed(mix_seed(seed, _ROWS), indices)
        drawn = reparameterise(mu, logvar, normal(mu.shape, streams, mu.device, mu.dtype))
        yield latent_model(run).diffused(mu, drawn).float().cpu()


def encoder_limit(model: LatentDiffusionModel) -> int | None:
    """Return the maximum number of tokens that the encoder accepts; None without a limit."""
    backbone: Any = model.encoder.backbone
    if hasattr(backbone, "params"):
        max_length: int | None = backbone.params.max_length
        return max_length
    limit: int | None = getattr(backbone.config, "max_position_embeddings", None)
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    before = getattr(table, "padding_idx", None)  # RoBERTa's positions begin after the id of its padding
    return limit if limit is None or before is None else limit - before - 1


def _check_length(part: str, count: int, limit: int | None, text: str) -> None:
    if limit is not None and count > limit:
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise PromptError(
            f"{shown!r} has {count} tokens with the begin and end tokens, and the {part} takes at most {limit}; shorten it by "
            f"{count - limit}"
        )


# Interpolation between texts and editing of texts along straight lines in latent space.


def interpolate(run: LoadedRun, first: str, last: str, points: int, seed: int) -> tuple[list[float], Samples]:
    """Decode (1 - share) * mu(first) + share * mu(last) for shares from 0 to 1 in equal steps; return shares and texts.

    mu are the mean latents. `generation` sets how tokens are chosen, `seed` those that are drawn. Raises UnfitError for
    a run of another task, and PromptError for texts that do not fit.
    """
    latent_model(run)
    refuse_lone_surrogates(first, last, what="the text of --interpolate")
    notes = _notes(run, [first, last])
    start, end = encode_texts(run, [first, last]).double()
    shares = [point / (points - 1) for point in range(points)]
    line = torch.stack([(1 - share) * start + share * end for share in shares])
    return shares, _decode(run, line, seed, notes)


def edit(
    run: LoadedRun, text: str, sources: Sequence[str], targets: Sequence[str], strength: float, seed: int
) -> Samples:
    """Decode mu(text), and mu(text) + strength * (mean of mu(targets) - mean of mu(sources)).

    Raises the same errors as `interpolate`.
    """
    latent_model(run)
    refuse_lone_surrogates(text, *sources, *targets, what="a text of --edit, --from or --to")
    notes = _notes(run, [text, *sources, *targets])
    here, before, after = (encode_texts(run, texts).double().mean(0) for texts in ([text], sources, targets))
    return _decode(run, torch.stack([here, here + strength * (after - before)]), seed, notes)


def _decode(run: LoadedRun, latents: torch.Tensor, seed: int, notes: list[str]) -> Samples:
    generator = torch.Generator(device=run.device).manual_seed(seed)
    dtype = next(run.model.parameters()).dtype
    found = Samples(notes=notes)
    for samples in decode_latents(run, latents.to(dtype), generator=generator):
        found.samples += samples
    return found


def _notes(run: LoadedRun, texts: Sequence[str]) -> list[str]:
    tokenizer = run.require_tokenizer()
    return [
        note
        for text in dict.fromkeys(texts)
        if (note := unknown_characters_note(text, tokenizer, f"the text {text!r}"))
    ]
