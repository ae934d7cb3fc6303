"""Metrics of samples of latent diffusion: diversity, copies of training texts, distances to the split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.distances import distance_figure, latent_distance, word_distance
from evaluation.figure import Figure, Report
from evaluation.intervals import Values, wilson
from evaluation.latent_draw import draw_prior_latents, encode_rows
from evaluation.likelihood import ratio_figure
from evaluation.opened import LoadedRun
from evaluation.progress import progress_bar
from evaluation.rows import Split
from evaluation.sample import Request, Sample
from evaluation.sampling import draw
from evaluation.self_bleu import self_bleu_figure
from evaluation.settings import Settings
from evaluation.texts import is_molecules, sample_figures
from evaluation.training_texts import choose_rows, find_copies, normalise_spaces, training_rows


def measure_latent_samples(
    run: LoadedRun, split: Split, texts: Sequence[str], latents: Sequence[Tensor], settings: Settings
) -> Report:
    """Measure `generation.num_samples` samples; return an empty report where `settings.samples` is False.

        tokens              per sample
        self_bleu           of each sample against the others
        copies              share of samples that equal a training text; copies_of_split: of the split's own texts
        jsd_...             Jensen-Shannon divergence of word unigrams and bigrams to the split's texts
        frechet             squared Frechet distance of Gaussians fitted to latents of the samples and of the split

    ..._training is the same for equally many training texts, which is the floor. frechet_prior is that of latents from
    N(0, I), scaled by the mean and standard deviation of each coordinate in training. Molecules have metrics of chemistry
    instead of words. `latents` [size] are those of the split's `texts`.
    """
    if not settings.samples:
        return Report()
    with progress_bar("samples", run.generation.num_samples) as track:
        samples = draw(run, Request(seed=settings.seed), track)
    drawn, seed = samples.samples, settings.seed
    report = Report([ratio_figure("tokens", [len(s.tokens) for s in drawn], np.ones(len(drawn)), seed, of="samples")])
    report.add(sample_figures(run, split, samples, settings))
    rows = training_rows(run)
    if not hasattr(rows, "__len__"):
        report.notes.append("the training split is a stream: copies of its texts and their distances are not measured")
        rows = None
    chosen = [] if rows is None else choose_rows(rows, len(drawn), seed)
    if not is_molecules(run):
        report.figures += self_bleu_figure([sample.text.split() for sample in drawn], seed)
        if rows is not None:
            report.figures += _copies(run, rows, drawn, texts, seed)
        report.figures += _word_figures(run, drawn, texts, chosen, seed)
    report.figures += _latent_figures(run, drawn, latents, chosen, seed)
    size = len(latents[0])
    if min(len(drawn), len(latents)) <= size:
        report.notes.append(f"Frechet distances of latents of {size} numbers need more samples and texts than {size}")
    return report


def _copies(run: LoadedRun, rows: Any, drawn: Sequence[Sample], texts: Sequence[str], seed: int) -> list[Figure]:
    sides = {
        "copies": ("samples", [normalise_spaces(sample.text) for sample in drawn], ""),
        "copies_of_split": ("texts", [normalise_spaces(text) for text in texts], "of the split's own texts"),
    }
    copied = find_copies(run, rows, {text for _, side, _ in sides.values() for text in side})
    figures = []
    for name, (of, side, note) in sides.items():
        hits = sum(text in copied for text in side)
        share = wilson(hits, len(side))
        value = hits / len(side)
        figures.append(Figure(name, value, share.low, share.high, len(side), of, seed, share.method, "", note))
    return figures


def _word_figures(
    run: LoadedRun, drawn: Sequence[Sample], texts: Sequence[str], chosen: Sequence[list[int]], seed: int
) -> list[Figure]:
    tokenizer = run.require_tokenizer()
    reference = [text.split() for text in texts]
    sides = {
        "": ([sample.text.split() for sample in drawn], "samples", "to the split"),
        "_training": ([tokenizer.decode(row).split() for row in chosen], "training texts", "floor"),
    }
    figures = []
    for n, name in ((1, "jsd_unigrams"), (2, "jsd_bigrams")):
        for suffix, (side, of, note) in sides.items():
            distance = word_distance(side, reference, n, what=of)
            figures += distance_figure(name + suffix, distance, len(side), of, seed, "bits", note)
    return figures


def _latent_figures(
    run: LoadedRun, drawn: Sequence[Sample], latents: Sequence[Tensor], chosen: Sequence[list[int]], seed: int
) -> list[Figure]:
    drawn_latents = torch.stack([sample.latent for sample in drawn if sample.latent is not None])
    sides = {"frechet": (drawn_latents, "samples", "latents, to the split")}
    if chosen:
        sides["frechet_training"] = (encode_rows(run, chosen, seed), "training texts", "floor")
    sides["frechet_prior"] = (draw_prior_latents(run, len(drawn), seed), "draws", "N(0, I), scaled as in training")
    figures, reference = [], _to_numpy(torch.stack(list(latents)))
    for name, (side, of, note) in sides.items():
        figures += distance_figure(
            name, latent_distance(_to_numpy(side), reference, what=of), len(side), of, seed, "", note
        )
    return figures


def _to_numpy(latents: Tensor) -> Values:
    return latents.detach().cpu().double().numpy()
