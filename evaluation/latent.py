"""Metrics of latent diffusion: reconstruction of texts, KL of latents, diffusion error, and samples."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from diffusion.randomness import RowGenerators, normal
from evaluation.figure import Figure, Report
from evaluation.intervals import wilson
from evaluation.latent_draw import decode_latents, encode_moments, latent_model
from evaluation.latent_samples import measure_latent_samples
from evaluation.likelihood import ratio_figure, row_nll
from evaluation.opened import LoadedRun
from evaluation.registry import register_metric
from evaluation.rows import Split
from evaluation.settings import Settings
from evaluation.translation import bleu_and_chrf
from model.latent.model import LatentDiffusionModel
from model.latent.variational import kl_divergence, reparameterise
from training.noise import mix_seed
from training.tasks.base import real_tokens

EXAMPLES = 3
_LATENTS = 59


@dataclass
class LatentMeasurements:
    """Measurements per row: reconstruction `nats` over `tokens`, `kl` in nats, diffusion `error`, `norm` of the mean.

    `latents` [size] are the rows' latents as the diffusion is trained on them: means or draws.
    """

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)


@register_metric("latent_diffusion")
def measure(run: LoadedRun, split: Split, settings: Settings) -> Report:
    """Measure the autoencoder, the diffusion's error on the split's rows, and samples.

    reconstruction_...    -log p(text | mean of its latent) per token, of all tokens but the first
    exact                 share of texts that greedy decoding from that mean reproduces without an error
    reconstruction_bleu   BLEU of the greedily decoded texts, by sacrebleu
    kl                    KL(q(z | text) || N(0, I)) per text
    diffusion_error       squared error of the denoiser's output per coordinate, at `settings.draws` times per row
    latent_norm           norm of the mean of a text's latent
    """
    found = measure_rows(run, split, settings)
    report = Report(_autoencoder_figures(found, settings.seed))
    figures, signatures = bleu_and_chrf(found.rebuilt, found.texts, settings.seed)
    report.figures.insert(3, replace(figures[0], name="reconstruction_bleu", of="texts"))
    report.notes += ["texts are reconstructed by greedy decoding of the mean latents", signatures[0]]
    report.figures += _latent_figures(run, found, settings.seed)
    pairs = list(zip(found.texts, found.rebuilt, strict=True))[:EXAMPLES]
    report.examples += [f"text    {text}\nrebuilt {rebuilt}" for text, rebuilt in pairs]
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
        again = decode_latents(greedy, mu, at_least=ids.shape[1] - 1)
        found.rebuilt += [sample.text for samples in again for sample in samples]
    return found


def _diffused(
    model: LatentDiffusionModel, mu: Tensor, logvar: Tensor, rows: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return latents [B, size] as the diffusion is trained on them, and its squared errors [B], averaged over draws."""
    latents, errors = [], []
    for draw in range(settings.draws):
        streams = RowGenerators.from_seed(mix_seed(settings.seed, _LATENTS, draw), rows)
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
