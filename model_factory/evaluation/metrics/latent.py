"""Metrics of latent diffusion: reconstruction of texts, KL of latents, diffusion error, and samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_manager.progress import progress_bar
from model.latent.model import LatentDiffusionModel
from model.latent.variational import kl_divergence, reparameterise
from model_factory.diffusion.randomness import RowGenerators, normal
from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.distances import distance_figure, latent_distance, word_distance
from model_factory.evaluation.metrics.intervals import Values, wilson
from model_factory.evaluation.metrics.likelihood import ratio_figure, row_nll
from model_factory.evaluation.metrics.texts import is_molecules, sample_figures, self_bleu_figure
from model_factory.evaluation.metrics.translation import corpus_score
from model_factory.evaluation.rows import Split, choose_rows, find_copies, normalise_spaces, training_rows
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.latent import (
    decode_latents,
    draw_prior_latents,
    encode_moments,
    encode_rows,
    latent_model,
)
from model_factory.evaluation.sampling.sample import Request, Sample
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import register_metric
from model_factory.training.noise import mix_seed
from model_factory.training.tasks.base import real_tokens

# Metrics of samples of latent diffusion: diversity, copies of training texts, distances to the split.


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
        with report.attempt("self_bleu", seed):
            report.figures += self_bleu_figure([sample.text.split() for sample in drawn], seed)
        if rows is not None:
            with report.attempt("copies", seed):
                report.figures += _copies(run, rows, drawn, texts, seed)
        with report.attempt("jsd", seed):
            report.figures += _word_figures(run, drawn, texts, chosen, seed)
    with report.attempt("frechet", seed):
        report.figures += _drawn_latent_figures(run, drawn, latents, chosen, seed)
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


def _drawn_latent_figures(
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


EXAMPLES = 3


_LATENTS = 59


@dataclass
class LatentMeasurements:
    """Measurements per row: reconstruction `nats` over `tokens`, `kl` in nats, diffusion `error`, `norm` of the mean.

    `latents` [size] are the rows' latents as the diffusion is trained on them: means or draws. `texts` are the decoded
    rows, as `rebuilt` are, `references` their texts in the data.
    """

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)


@register_metric("latent_diffusion")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the autoencoder, the diffusion's error on the split's rows, and samples.

    reconstruction_...    -log p(text | mean of its latent) per token, of all tokens but the first
    exact                 share of texts that greedy decoding from that mean reproduces without an error, up to what the
                          tokenizer does not keep
    reconstruction_bleu   BLEU of the greedily decoded texts against those of the data, by sacrebleu
    kl                    KL(q(z | text) || N(0, I)) per text
    diffusion_error       squared error of the denoiser's output per coordinate, at `settings.draws` times per row
    latent_norm           norm of the mean of a text's latent
    """
    found = measure_rows(run, split, settings)
    report = Report(_autoencoder_figures(found, settings.seed))
    report.notes.append("texts are reconstructed by greedy decoding of the mean latents")
    with report.attempt("reconstruction_bleu", settings.seed):
        bleu, signature = corpus_score("bleu", found.rebuilt, found.references, settings.seed)
        report.figures.append(replace(bleu, name="reconstruction_bleu", of="texts"))
        report.notes.append(signature)
    report.figures += _latent_figures(run, found, settings.seed)
    pairs = list(zip(found.texts, found.rebuilt, strict=True))[:EXAMPLES]
    report.examples += [f"text    {text}\nrebuilt {rebuilt}" for text, rebuilt in pairs]
    with report.attempt("samples", settings.seed):
        report.add(measure_latent_samples(run, split, found.texts, found.latents, settings))
    return report


@torch.no_grad()
def measure_rows(run: LoadedRun, split: Split, settings: Settings) -> LatentMeasurements:
    """Measure each row of the split."""
    model, tokenizer, found = latent_model(run), run.require_tokenizer(), LatentMeasurements()
    greedy_settings = {"temperature": 0.0, "top_k": None, "top_p": None, "num_beams": 1}
    greedy = replace(
        run, config=run.config.model_copy(update={"generation": run.generation.model_copy(update=greedy_settings)})
    )
    for batch in split.batches(split.name):
        ids, is_real = batch["input_ids"], real_tokens(batch)
        mu, logvar = encode_moments(run, batch)
        (logits,) = model.decoder(ids, mu, attention_mask=is_real)
        found.nats += row_nll(logits[:, :-1], ids[:, 1:], is_real[:, 1:]).tolist()
        found.tokens += is_real[:, 1:].sum(1).tolist()
        found.kl += kl_divergence(mu, logvar).sum(1).tolist()
        found.norm += mu.float().norm(dim=1).tolist()
        rows = batch["noise"].place.to(ids.device)
        z, error = _diffused(model, mu, logvar, rows, settings)
        found.error += error.tolist()
        found.latents += list(z.float().cpu())
        found.texts += [tokenizer.decode(row[kept].tolist()) for row, kept in zip(ids, is_real, strict=True)]
        found.references += batch.get("input_text") or found.texts[-len(ids) :]
        again = decode_latents(greedy, mu, at_least=ids.shape[1] - 1)
        found.rebuilt += [sample.text for samples in again for sample in samples]
    return found


def _diffused(
    model: LatentDiffusionModel, mu: Tensor, logvar: Tensor, rows: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return latents [B, size] as the diffusion is trained on them, and its squared errors [B], averaged over draws."""
    latents, errors = [], []
    for repeat in range(settings.draws):
        streams = RowGenerators.from_seed(mix_seed(settings.seed, _LATENTS, repeat), rows)
        drawn = reparameterise(mu, logvar, normal(mu.shape, streams, mu.device, mu.dtype))
        z = model.diffused(mu, drawn)
        latents.append(z)
        inputs = (z, mu) if model.normaliser is None else (model.normaliser(z), model.normaliser(mu))
        errors.append(model.ddpm(*inputs, generator=streams)[0].double())
    return latents[0], torch.stack(errors).mean(0)


def _autoencoder_figures(found: LatentMeasurements, seed: int) -> list[Figure]:
    nats, note = np.array(found.nats), "given the mean latent"
    hits = sum(text == again for text, again in zip(found.texts, found.rebuilt, strict=True))
    share = wilson(hits, len(found.texts))
    count = len(found.texts)
    return [
        ratio_figure("reconstruction_nats", nats, found.tokens, seed, unit="nats a token", note=note),
        ratio_figure("reconstruction_bits", nats / np.log(2), found.tokens, seed, unit="bits a token", note=note),
        Figure("exact", hits / count, share.low, share.high, count, "texts", seed, share.method, "", "greedy decoding"),
    ]


def _latent_figures(run: LoadedRun, found: LatentMeasurements, seed: int) -> list[Figure]:
    latent = latent_model(run).latent_config
    ones = np.ones(len(found.kl))
    near = f"about {latent.latent.size**0.5:.3g} under N(0, I)"
    error = f"predicts {latent.diffusion.prediction}"
    return [
        ratio_figure("kl", found.kl, ones, seed, unit="nats a text"),
        ratio_figure("diffusion_error", found.error, ones, seed, note=error),
        ratio_figure("latent_norm", found.norm, ones, seed, note=near),
    ]
