"""Command `evaluate.py` on latent diffusion: figures of a trained run, their definitions, reproducibility."""

import json
import math

import numpy as np
import pytest
import torch

from model.latent.variational import kl_divergence
from model_factory.cli.evaluate import main
from model_factory.evaluation.metrics.latent import measure_rows
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.latent import encode_rows
from model_factory.evaluation.sampling.sample import Request, Sample, Samples
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import metrics_of
from tests.evaluation.latent_runs import TEXTS
from tests.evaluation.untrained_runs import DECODER, make_run, text_data

AUTOENCODER = {
    "reconstruction_nats",
    "reconstruction_bits",
    "exact",
    "reconstruction_bleu",
    "kl",
    "diffusion_error",
    "latent_norm",
}
SAMPLES = {
    "tokens",
    "entropy",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "self_bleu",
    "copies",
    "copies_of_split",
    *(f"jsd_{kind}{suffix}" for kind in ("unigrams", "bigrams") for suffix in ("", "_training")),
    "frechet",
    "frechet_training",
    "frechet_prior",
}


@pytest.fixture(scope="module")
def run(latent_run):
    return open_run(latent_run, ["generation.num_samples=40", "generation.steps=10"])


@pytest.fixture(scope="module")
def split(run):
    return load_split(run, "train", max_rows=None, seed=0)


@pytest.fixture(scope="module")
def report(run, split):
    return metrics_of("latent_diffusion")(run, split, Settings(seed=1))


def test_latent_figures_are_complete_and_reproducible(latent_run, capsys):
    words = ["--run", str(latent_run), "--num-samples", "12", "--steps", "10", "--seed", "3", "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert {figure["name"] for figure in first["figures"]} == AUTOENCODER | SAMPLES
    assert (first["split"], first["rows"]) == ("test", 6)
    for figure in first["figures"]:
        assert figure["seed"] == 3
        assert figure["low"] <= figure["value"] <= figure["high"] + 1e-9 or figure["name"].endswith("bleu")
    assert any("need more samples and texts than 16" in note for note in first["notes"])
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == first["figures"]


def test_latent_evaluation_without_samples(latent_run, capsys):
    assert main(["--run", str(latent_run), "--num-samples", "0", "--split", "train", "--draws", "3"]) == 0
    out = capsys.readouterr().out
    assert "reconstruction_bits" in out
    assert "self_bleu" not in out
    assert "rebuilt " in out


def test_autoencoder_figures_match_the_model(run, split, report):
    texts, nats, tokens, kl, norm = [], 0.0, 0, 0.0, 0.0
    model, tokenizer = run.model, run.tokenizer
    with torch.no_grad():
        for row in split.rows.table["input_ids"]:
            ids = torch.as_tensor(row)[None].long()
            mu, logvar = model.moments(ids, torch.ones_like(ids))
            nats += float(model.decoder(ids, mu, labels=ids)[0])
            tokens += ids.shape[1] - 1
            kl += float(kl_divergence(mu, logvar).sum())
            norm += float(mu.norm())
            written = model.decode(mu, tokenizer.bos_token_id, 20, eos_token=tokenizer.eos_token_id)
            texts.append((tokenizer.decode(ids[0].tolist()), tokenizer.decode(written[0].tolist())))
    count = len(texts)
    assert report.value("reconstruction_nats") == pytest.approx(nats / tokens, rel=1e-4)
    assert report.value("reconstruction_bits") == pytest.approx(nats / tokens / math.log(2), rel=1e-4)
    assert report.value("kl") == pytest.approx(kl / count, rel=1e-4)
    assert report.value("latent_norm") == pytest.approx(norm / count, rel=1e-4)
    assert report.value("exact") == sum(text == again for text, again in texts) / count
    assert report.value("exact") > 0.9
    assert report.value("reconstruction_bleu") > 90


def test_diffusion_error_matches_training_loss(run, split, report):
    errors = []
    with torch.no_grad():
        for seed in range(60):
            (batch,) = split.batches("train")
            errors.append(float(run.model(batch["input_ids"], batch.get("attention_mask"), seed=seed).diffusion))
    many = measure_rows(run, split, Settings(seed=2, draws=60)).error
    assert np.mean(many) == pytest.approx(np.mean(errors), rel=0.1)
    figure = next(figure for figure in report.figures if figure.name == "diffusion_error")
    assert figure.low < np.mean(errors) < figure.high


def test_reconstruction_ignores_small_max_new_tokens(latent_run):
    run = open_run(latent_run, ["generation.max_new_tokens=2", "generation.temperature=3.0"])
    found = measure_rows(run, load_split(run, "train", max_rows=None, seed=0), Settings())
    assert np.mean([text == again for text, again in zip(found.texts, found.rebuilt, strict=True)]) > 0.9


def test_copied_training_texts_are_found(run, split, monkeypatch):
    """Samples that copy the split: every word distance is 0, and every sample is a copy."""
    ids = [[int(token) for token in row] for row in split.rows.table["input_ids"]]
    latents = encode_rows(run, ids, 0)
    texts = [run.tokenizer.decode(row) for row in ids]
    copied = Samples(
        [Sample(text, None, row, 10, latent) for text, row, latent in zip(texts, ids, latents, strict=True)]
    )
    monkeypatch.setattr("model_factory.evaluation.metrics.latent.draw", lambda *_: copied)
    report = metrics_of("latent_diffusion")(run, split, Settings())
    assert report.value("copies") == report.value("copies_of_split") == 1
    assert report.value("jsd_unigrams") == report.value("jsd_bigrams") == 0
    assert report.value("jsd_bigrams_training") == 0  # all rows are chosen, as there are no more
    assert report.value("frechet") < report.value("frechet_prior")
    held_out = load_split(run, "test", max_rows=None, seed=0)
    assert metrics_of("latent_diffusion")(run, held_out, Settings()).value("copies_of_split") == 0


def test_sample_latents_decode_to_the_samples(run):
    samples = draw(run, Request(seed=1)).samples
    model, tokenizer = run.model, run.tokenizer
    latents = torch.stack([sample.latent for sample in samples])
    written = model.decode(latents, tokenizer.bos_token_id, 20, eos_token=2, pad_token=0)
    assert [tokenizer.decode(row) for row in written.tolist()] == [sample.text for sample in samples]
    assert len({sample.text for sample in samples} & set(TEXTS)) > 2


def test_latent_evaluation_with_a_judge(tmp_path, latent_run, capsys):
    judge = make_run(tmp_path, DECODER, text_data(tmp_path), "language_modelling")
    words = ["--run", str(latent_run), "--judge", str(judge), "--num-samples", "3", "--steps", "5"]
    assert main(words) == 0
    assert "generative_perplexity" in capsys.readouterr().out
    assert main(["--run", str(latent_run), "--judge", str(latent_run / "nowhere"), "--num-samples", "2"]) == 3
    assert "nowhere is not there" in capsys.readouterr().err
    assert main(["--run", str(latent_run), "--judge", str(latent_run), "--num-samples", "2"]) == 1
    assert "is not a left-to-right language model" in capsys.readouterr().err
