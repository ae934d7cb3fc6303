"""Untrained latent diffusion: a pretrained encoder with its own tokenizer, settings of the latent, molecules."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from model_factory.cli.evaluate import main as evaluate
from model_factory.cli.generate import main as generate
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.latent import draw_prior_latents, encode_texts, encoder_limit
from tests.evaluation.untrained_runs import make_run, text_data

PERFORMER = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "max_length": 101}
LATENT = {
    "model_type": "latent_diffusion",
    "name": "latent",
    "encoder": PERFORMER,
    "decoder": PERFORMER,
    "latent": {"size": 4},
    "denoiser": {"type": "linear"},
    "diffusion": {"num_steps": 20},
    "device": "cpu",
}


def lines(folder):
    data = text_data(folder, rows="whole", documents="line")
    data[0]["sequence_length"] = 100
    return data


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Save a BERT of 40 positions over words with its tokenizer, and make a run with it."""
    folder = tmp_path_factory.mktemp("pretrained")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox jumps over lazy dog and does not"
    (folder / "vocab.txt").write_text(words.replace(" ", "\n") + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(str(folder / "bert"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words.split()), max_position_embeddings=40, **sizes)
    BertModel(config).save_pretrained(str(folder / "bert"))
    encoder = {"type": "BertForLatentConnectorAVG", "path": str(folder / "bert")}
    return make_run(folder, LATENT | {"encoder": encoder}, lines(folder), "latent_diffusion")


def test_pretrained_encoder_uses_its_own_tokenizer(pretrained, capsys):
    run = open_run(pretrained)
    own = run.task.encoder_texts.own(["the quick fox"], return_tensors="pt")
    with torch.no_grad():
        wanted = run.model.moments(own["input_ids"], own["attention_mask"].bool())[0]
    torch.testing.assert_close(encode_texts(run, ["the quick fox"]), wanted)
    assert encoder_limit(run.model) == 40
    assert generate(["--run", str(pretrained), "--interpolate", "the quick", "not the dog"]) == 0
    capsys.readouterr()
    many = "a " * 45
    assert generate(["--run", str(pretrained), "--interpolate", "the quick", many.strip()]) == 1
    assert "has 47 tokens with the begin and end tokens, and the encoder takes at most 40" in capsys.readouterr().err


@pytest.mark.parametrize("more", [{}, {"compat": "dmlp"}, {"latent": {"size": 4, "normalise": False, "variance": 0.1}}])
def test_latent_evaluation_with_settings(more, tmp_path, capsys):
    run = make_run(tmp_path, LATENT | more, lines(tmp_path), "latent_diffusion")
    assert evaluate(["--run", str(run), "--num-samples", "4", "--steps", "5", "--json"]) == 0
    found = {figure["name"]: figure["value"] for figure in json.loads(capsys.readouterr().out)["figures"]}
    assert {"kl", "diffusion_error", "frechet", "frechet_prior"} <= set(found)
    opened = open_run(run)
    same = torch.equal(draw_prior_latents(opened, 3, 0), draw_prior_latents(opened, 3, 0, scaled=False))
    assert same or opened.model.normaliser is not None


def test_pretrained_encoder_is_measured(pretrained, capsys):
    assert evaluate(["--run", str(pretrained), "--num-samples", "3", "--steps", "5"]) == 0
    assert "frechet_training" in capsys.readouterr().out


def test_latent_diffusion_of_molecules(tmp_path, capsys):
    pytest.importorskip("rdkit")
    for split, names in (("train", ["CCO", "CCN", "c1ccccc1", "CCCl"]), ("test", ["CCC", "CCS", "CC"])):
        (tmp_path / f"{split}.smi").write_text("\n".join(names) + "\n")
    files = {split: str(tmp_path / f"{split}.smi") for split in ("train", "test")}
    data = [{"name": "zinc", "source": "smiles", "data_files": files, "sequence_length": 12, "rows": "whole"}]
    run = make_run(tmp_path, LATENT, data, "latent_diffusion")
    assert evaluate(["--run", str(run), "--num-samples", "4", "--steps", "5"]) == 0
    out = capsys.readouterr().out
    assert "self_bleu" not in out
    assert "frechet" in out
