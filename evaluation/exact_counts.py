"""Samples in which pieces of text stand exactly so often: drawn again until it holds, so from the law given that it does.

Rejection changes nothing else: kept samples have the law of the model's samples under the condition, whatever the
sampler. (Ruling tokens out while a sample is drawn would lean towards what the rule happens to meet.)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import ceil

import torch

from evaluation.opened import LoadedRun
from evaluation.sample import Request, Sample
from training.config_types import MAX_ATTEMPTS
from training.errors import UnfitError
from training.noise import mixed_seed

DrawSamples = Callable[[LoadedRun, Request, "str | None", torch.Generator], Iterator[list[Sample]]]
_MOST_AT_ONCE = 1024


def has_exact_counts(text: str, exactly: Mapping[str, int]) -> bool:
    """Whether each piece stands in a text as often as it should."""
    return all(text.count(piece) == count for piece, count in exactly.items())


def draw_with_rejection(
    draw_samples: DrawSamples,
    run: LoadedRun,
    request: Request,
    prompt: str | None,
    generator: torch.Generator,
    notes: list[str],
) -> Iterator[list[Sample]]:
    """`generation.num_samples` samples of `draw_samples` that hold `generation.exactly`, and a note on the share that did.

    Raises UnfitError where `generation.max_attempts` samples for each one asked for do not bring enough.
    """
    settings = run.generation
    exactly, wanted = settings.exactly or {}, settings.num_samples
    limit = wanted * (settings.max_attempts or MAX_ATTEMPTS)
    drawn = kept = number = 0
    while kept < wanted:
        if drawn >= limit:
            raise UnfitError(_too_few(kept, drawn, wanted, exactly))
        expected = ceil((wanted - kept) * (drawn + 1) / (kept + 1)) if drawn else wanted
        size = min(expected, limit - drawn, _MOST_AT_ONCE)
        asked = request if not number else replace(request, seed=mixed_seed(request.seed, number))
        number += 1
        for samples in draw_samples(_asked_for(run, size), asked, prompt, generator):
            found = []
            for sample in samples:
                if kept < wanted:
                    drawn += 1
                    if has_exact_counts(sample.text, exactly):
                        kept += 1
                        found.append(sample)
            yield found
            if kept == wanted:
                break
    notes.append(
        f"{_rule(exactly)} held in {kept:,} of {drawn:,} samples ({kept / drawn:.1%}); the others were drawn again"
    )


def _asked_for(run: LoadedRun, count: int) -> LoadedRun:
    generation = run.generation.model_copy(update={"num_samples": count})
    return replace(run, config=run.config.model_copy(update={"generation": generation}))


def _rule(exactly: Mapping[str, int]) -> str:
    return "exactly " + " and ".join(f"{count} {piece!r}" for piece, count in exactly.items())


def _too_few(kept: int, drawn: int, wanted: int, exactly: Mapping[str, int]) -> str:
    return (
        f"generation.exactly: {_rule(exactly)} held in {kept:,} of {drawn:,} samples, and {wanted:,} were asked for; raise "
        "generation.max_attempts, train longer, or lower generation.temperature"
    )
