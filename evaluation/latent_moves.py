"""Interpolation between texts and editing of texts along straight lines in latent space."""

from collections.abc import Sequence

import torch

from evaluation.latent_draw import decode_latents, encode_texts, latent_model
from evaluation.opened import LoadedRun
from evaluation.prompt import refuse_lone_surrogates, unknown_characters_note
from evaluation.sample import Samples


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
