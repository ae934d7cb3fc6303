"""Rejection sampling: redraw until each substring occurs the required number of times.

Accepted samples follow the model's distribution conditioned on the counts, for every sampler. (Masking tokens while a
sample is drawn would bias it.)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import ceil

import torch

from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.sample import Request, Sample
from model_factory.experiment.training_types import MAX_ATTEMPTS
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed

DrawSamples = Callable[[LoadedRun, Request, "str | None", torch.Generator], Iterator[list[Sample]]]
_MAX_BATCH = 1024


def has_exact_counts(text: str, exactly: Mapping[str, int]) -> bool:
    """Return True if each substring occurs in the text exactly the required number of times."""
    return all(text.count(substring) == count for substring, count in exactly.items())


def draw_with_rejection(
    draw_samples: DrawSamples,
    run: LoadedRun,
    request: Request,
    prompt: str | None,
    generator: torch.Generator,
    notes: list[str],
) -> Iterator[list[Sample]]:
    """Yield `generation.num_samples` samples that meet `generation.exactly`; add a note on the acceptance rate.

    Raises UnfitError where `generation.max_attempts` draws per requested sample do not yield enough.
    """
    settings = run.generation
    exactly, wanted = settings.exactly or {}, settings.num_samples
    limit = wanted * (settings.max_attempts or MAX_ATTEMPTS)
    drawn = kept = number = 0
    while kept < wanted:
        if drawn >= limit:
            raise UnfitError(_too_few(kept, drawn, wanted, exactly))
        expected = ceil((wanted - kept) * (drawn + 1) / (kept + 1)) if drawn else wanted
        size = min(expected, limit - drawn, _MAX_BATCH)
        attempt = request if not number else replace(request, seed=mix_seed(request.seed, number))
        number += 1
        for samples in draw_samples(_with_num_samples(run, size), attempt, prompt, generator):
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
        f"{_rule(exactly)} held in {kept:,} of {drawn:,} samples ({kept / drawn:.1%}); the others were redrawn"
    )


def _with_num_samples(run: LoadedRun, count: int) -> LoadedRun:
    generation = run.generation.model_copy(update={"num_samples": count})
    return replace(run, config=run.config.model_copy(update={"generation": generation}))


def _rule(exactly: Mapping[str, int]) -> str:
    return "exactly " + " and ".join(f"{count} {substring!r}" for substring, count in exactly.items())


def _too_few(kept: int, drawn: int, wanted: int, exactly: Mapping[str, int]) -> str:
    return (
        f"generation.exactly: {_rule(exactly)} held in {kept:,} of {drawn:,} samples, and {wanted:,} were requested; raise "
        "generation.max_attempts, train longer, or lower generation.temperature"
    )
