"""Command `generate.py` on latent diffusion: samples, interpolation and editing with a trained run."""

import json

import pytest
import torch

from model.latent.model import LatentDiffusionModel
from model.transformer.inputs import InputError
from model_factory.cli.generate import main
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.latent import (
    decode_latents,
    draw_latents,
    draw_prior_latents,
    edit,
    encode_texts,
    interpolate,
)
from model_factory.evaluation.sampling.sample import Request
from tests.evaluation.latent_runs import TEXTS
from tests.evaluation.untrained_runs import DECODER, make_run, text_data

A, B = "a dog see a tree", "two cats like the sun"


@pytest.fixture(scope="module")
def run(latent_run):
    return open_run(latent_run)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    return make_run(folder, DECODER, text_data(folder), "language_modelling")


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Make an untrained run of Performers over characters."""
    folder = tmp_path_factory.mktemp("letters")
    part = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}
    section = {
        "model_type": "latent_diffusion",
        "name": "letters",
        "encoder": {**part, "max_length": 90},
        "decoder": {**part, "max_length": 120},
        "latent": {"size": 4},
        "denoiser": {"type": "linear"},
        "device": "cpu",
    }
    data = text_data(folder, rows="whole", documents="line")
    data[0]["sequence_length"] = 90
    return make_run(folder, section, data, "latent_diffusion")


def generated(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failed(capsys, code, *words):
    assert main([*map(str, words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    return err


def rebuilt(run, text):
    (samples,) = decode_latents(run, encode_texts(run, [text]))
    return samples[0].text


def test_latent_samples_are_seeded(latent_run, capsys):
    words = ("--run", latent_run, "--steps", 10, "--sampler", "ddim", "--num-samples", 8)
    first = generated(capsys, *words, "--seed", 4)
    assert [sample["network_calls"] for sample in first["samples"]] == [10] * 8
    assert first["samples"] == generated(capsys, *words, "--seed", 4)["samples"]
    texts = [sample["text"] for sample in first["samples"]]
    assert texts != [sample["text"] for sample in generated(capsys, *words, "--seed", 5)["samples"]]
    assert len(set(texts) & set(TEXTS)) > 1
    plain = generated(capsys, "--run", latent_run, "--num-samples", 1)
    assert plain["samples"][0]["network_calls"] == 50


def test_latent_samples_do_not_depend_on_batch_size_or_count(latent_run):
    run = open_run(latent_run, ["generation.num_samples=7", "generation.num_beams=2"])
    found = [draw(run, Request(seed=2, batch_size=size)).samples for size in (1, 3, 64)]
    assert found[0] == found[1] == found[2]
    fewer = draw(open_run(latent_run, ["generation.num_samples=4", "generation.num_beams=2"]), Request(seed=2))
    assert fewer.samples == found[0][:4]


def test_latent_samples_begin_with_the_prompt(latent_run, capsys):
    found = generated(capsys, "--run", latent_run, "--prompt", "two cats", "--prompt", "the", "--num-samples", 3)
    assert [sample["text"].startswith(sample["prompt"]) for sample in found["samples"]] == [True] * 6
    assert len({sample["text"] for sample in found["samples"]}) > 1
    long = " ".join(["tree"] * 30)
    assert "the prompt takes" in failed(capsys, 1, "--run", latent_run, "--prompt", long)


def test_latent_decoding_at_a_temperature(latent_run):
    options = ["generation.num_samples=6", "generation.temperature=2.0", "generation.top_k=5"]
    hot, again = (draw(open_run(latent_run, options), Request(seed=1)).samples for _ in range(2))
    assert hot == again
    cold = draw(open_run(latent_run, options[:1]), Request(seed=1)).samples
    assert hot != cold


def test_latent_samples_with_exact_counts(latent_run):
    run = open_run(latent_run, ["generation.num_samples=3", 'generation.exactly={"tree": 1}'])
    found = draw(run, Request(seed=1))
    assert all("tree" in sample.text for sample in found.samples)
    assert "held in 3 of" in found.notes[0]


def test_interpolation_ends_are_the_reconstructed_texts(latent_run, run, capsys):
    found = generated(capsys, "--run", latent_run, "--interpolate", A, B, "--points", 4)
    assert [point["share"] for point in found["points"]] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    texts = [point["text"] for point in found["points"]]
    assert (texts[0], texts[-1]) == (rebuilt(run, A), rebuilt(run, B)) == (A, B)
    assert main(["--run", str(latent_run), "--interpolate", A, B]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert (lines[0], lines[-1]) == (f"0.00  {A}", f"1.00  {B}")
    shares, same = interpolate(run, A, A, 3, seed=0)
    assert ([sample.text for sample in same.samples], shares) == ([A] * 3, [0, 0.5, 1])


def test_interpolation_is_linear(run, monkeypatch):
    seen = []
    decode = LatentDiffusionModel.decode
    monkeypatch.setattr(LatentDiffusionModel, "decode", lambda *a, **k: seen.append(a[1]) or decode(*a, **k))
    interpolate(run, A, B, 3, seed=0)
    torch.testing.assert_close(seen[0][1], (seen[0][0] + seen[0][2]) / 2)


def test_edit_along_a_zero_direction_changes_nothing(latent_run, capsys):
    found = generated(capsys, "--run", latent_run, "--edit", A, "--from", B, "--to", B)
    assert found["edit"]["rebuilt"] == found["edit"]["edited"] == A
    assert found["edit"]["strength"] == 1
    words = ("--run", latent_run, "--edit", A, "--from", A, "--to", B, "--strength", 0)
    assert generated(capsys, *words)["edit"]["edited"] == A


def test_edit_in_direction_of_another_text_yields_it(latent_run, run, capsys):
    assert main(["--run", str(latent_run), "--edit", A, "--from", A, "--to", B]) == 0
    assert capsys.readouterr().out == f"rebuilt  {A}\nedited   {B}\n"
    back = edit(run, A, [B], [A], -1.0, seed=0)
    assert back.samples[1].text == B


def test_edit_direction_is_between_means_of_examples(run, monkeypatch):
    seen = []
    decode = LatentDiffusionModel.decode
    monkeypatch.setattr(LatentDiffusionModel, "decode", lambda *a, **k: seen.append(a[1]) or decode(*a, **k))
    edit(run, A, TEXTS[:2], TEXTS[2:5], 0.5, seed=0)
    here, sources, targets = (encode_texts(run, texts).mean(0) for texts in ([A], TEXTS[:2], TEXTS[2:5]))
    torch.testing.assert_close(seen[0], torch.stack([here, here + 0.5 * (targets - sources)]))


def test_latent_moves_note_unknown_characters(letters, capsys):
    found = generated(capsys, "--run", letters, "--edit", "the d\u00f6g", "--from", "the", "--to", "a dog")
    assert found["notes"] == [
        "the text 'the d\u00f6g' has characters that the run's tokenizer does not know ('\u00f6')"
    ]
    found = generated(capsys, "--run", letters, "--interpolate", "a", "the \u00e9", "--points", 2)
    assert "'the \u00e9' has characters" in found["notes"][0]


@pytest.mark.parametrize("words", [["--interpolate", "a", "\udfff"], ["--edit", "a", "--from", "b", "--to", "\udfff"]])
def test_latent_moves_refuse_lone_surrogates(words, letters, capsys):
    assert main(["--run", str(letters), *words]) == 1
    assert f"text of {words[0]}" in (message := capsys.readouterr().err)
    assert r"has '\udfff', half of a character (a lone surrogate)" in message


def test_text_longer_than_the_encoder_is_refused(letters, capsys):
    message = failed(capsys, 1, "--run", letters, "--interpolate", "a" * 100, "the")
    assert f"'{'a' * 40}...' has 102 tokens with the begin and end tokens, and the encoder takes at most 90" in message
    assert "shorten it by 12" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interpolate", A, ""], "--interpolate has an empty text"),
        (["--interpolate", A, B, "--points", "1"], "--points takes a number of at least 2"),
        (["--points", "3"], "--points is for --interpolate A B"),
        (["--edit", A], "--from is missing; add --from TEXT"),
        (["--edit", A, "--from", A], "--to is missing; add --to TEXT"),
        (["--edit", "", "--from", A, "--to", B], "--edit is empty"),
        (["--edit", A, "--from", A, "--to", ""], "--to is empty"),
        (["--from", A], "--from is for --edit TEXT"),
        (["--to", A], "--to is for --edit TEXT"),
        (["--strength", "2"], "--strength is for --edit TEXT"),
        (["--edit", A, "--from", A, "--to", B, "--strength", "nan"], "--strength takes a number"),
        (["--edit", A, "--from", A, "--to", B, "--interpolate", A, B], "exclude each other"),
        (["--interpolate", A, B, "--prompt", A], "--prompt is for drawn latents"),
        (["--interpolate", A, B, "--steps", "4"], "--steps is for drawn samples"),
        (["--edit", A, "--from", A, "--to", B, "--num-samples", "4"], "--num-samples is for drawn samples"),
    ],
)
def test_latent_option_usage_errors(words, message, latent_run, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--run", str(latent_run), *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_latent_options_that_do_not_fit_the_run(latent_run, decoder, capsys):
    for words in (["--interpolate", A, B], ["--edit", A, "--from", A, "--to", B]):
        message = failed(capsys, 1, "--run", decoder, *words)
        assert "a run of task language_modelling has no latents; give a run of task latent_diffusion" in message
    long = " ".join(["tree"] * 30)
    message = failed(capsys, 1, "--run", latent_run, "--interpolate", A, long)
    assert "tokens with the begin and end tokens, and the decoder takes at most 23; shorten it by" in message
    for option in (["--length", "4"], ["--condition", "1"]):
        assert "is for diffusion models of tokens" in failed(capsys, 1, "--run", latent_run, *option)
    assert "sampler 'first_hitting'" in failed(capsys, 1, "--run", latent_run, "--sampler", "first_hitting")
    assert "more than the diffusion's num_steps 50" in failed(capsys, 1, "--run", latent_run, "--steps", 51)


def test_prior_latents_are_seeded_and_scaled(run):
    first, again, plain = (
        draw_prior_latents(run, 400, 3),
        draw_prior_latents(run, 400, 3),
        draw_prior_latents(run, 400, 3, scaled=False),
    )
    assert torch.equal(first, again)
    assert float(plain.std()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(first, run.model.normaliser.invert(plain))
    assert first.shape == draw_latents(run, 400, torch.Generator().manual_seed(0)).shape


def test_decode_refuses_latents_of_another_size(run):
    with pytest.raises(InputError, match="16"):
        list(decode_latents(run, torch.zeros(2, 5)))
