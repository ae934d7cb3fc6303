"""What the diffusion of latents writes, beside the split and the training texts: diversity, copies, and distances."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.distances import distance_figure, latent_distance, word_distance
from evaluation.figure import Figure, Report
from evaluation.intervals import Values, wilson
from evaluation.latent_draw import latents_of, prior_latents
from evaluation.likelihood import ratio_figure
from evaluation.opened import Opened
from evaluation.progress import counted
from evaluation.rows import Split
from evaluation.sample import Request, Sample
from evaluation.sampling import draw
from evaluation.self_bleu import self_bleu_figure
from evaluation.settings import Settings
from evaluation.texts import is_molecules, sample_figures
from evaluation.training_texts import plain, some_rows, standing_in, training_rows


def measure_drawn(
    run: Opened, split: Split, texts: Sequence[str], latents: Sequence[Tensor], settings: Settings
) -> Report:
    """Figures of `generation.num_samples` samples; none where no samples are asked for.

        tokens              of a sample
        self_bleu           of each sample beside the others
        copies              samples that are, word for word, a text of the training split; copies_of_split: the split's own
        jsd_...             Jensen-Shannon divergence of words and of pairs of them to the split's texts
        frechet             squared Frechet distance of the samples' latents to those of the split, as Gaussians

    ..._training is the same of equally many training texts, the floor that chance alone gives; frechet_prior that of
    latents from N(0, I) with the mean and deviation of each coordinate that training saw. Of molecules chemistry takes
    the place of words.
    """
    if not settings.samples:
        return Report()
    with counted("samples", run.generation.num_samples) as track:
        samples = draw(run, Request(seed=settings.seed), track)
    drawn, seed = samples.samples, settings.seed
    report = Report([ratio_figure("tokens", [len(s.tokens) for s in drawn], np.ones(len(drawn)), seed, of="samples")])
    report.add(sample_figures(run, split, samples, settings))
    rows = training_rows(run)
    if not hasattr(rows, "__len__"):
        report.notes.append("the training split is a stream: copies of its texts and distances of them are left out")
        rows = None
    chosen = [] if rows is None else some_rows(rows, len(drawn), seed)
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


def _copies(run: Opened, rows: Any, drawn: Sequence[Sample], texts: Sequence[str], seed: int) -> list[Figure]:
    sides = {
        "copies": ("samples", [plain(sample.text) for sample in drawn], ""),
        "copies_of_split": ("texts", [plain(text) for text in texts], "of the split's own texts"),
    }
    known = standing_in(run, rows, {text for _, side, _ in sides.values() for text in side})
    figures = []
    for name, (of, side, note) in sides.items():
        hits = sum(text in known for text in side)
        share = wilson(hits, len(side))
        value = hits / len(side)
        figures.append(Figure(name, value, share.low, share.high, len(side), of, seed, share.method, "", note))
    return figures


def _word_figures(
    run: Opened, drawn: Sequence[Sample], texts: Sequence[str], chosen: Sequence[list[int]], seed: int
) -> list[Figure]:
    tokenizer = run.needs_tokenizer()
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
    run: Opened, drawn: Sequence[Sample], latents: Sequence[Tensor], chosen: Sequence[list[int]], seed: int
) -> list[Figure]:
    own = torch.stack([sample.latent for sample in drawn if sample.latent is not None])
    sides = {"frechet": (own, "samples", "latents, to the split")}
    if chosen:
        sides["frechet_training"] = (latents_of(run, chosen, seed), "training texts", "floor")
    sides["frechet_prior"] = (prior_latents(run, len(drawn), seed), "draws", "N(0, I), scaled as in training")
    figures, reference = [], _plain(torch.stack(list(latents)))
    for name, (side, of, note) in sides.items():
        figures += distance_figure(
            name, latent_distance(_plain(side), reference, what=of), len(side), of, seed, "", note
        )
    return figures


def _plain(latents: Tensor) -> Values:
    return latents.detach().cpu().double().numpy()
