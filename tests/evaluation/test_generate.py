"""Command `generate.py`: samples of each kind of run, and messages for bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.discrete.model import DiffusionModel
from model_factory.cli.generate import main
from model_factory.evaluation.run import newest_run, open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.prompt import PromptError, read_template
from model_factory.evaluation.sampling.sample import Request
from tests.evaluation.untrained_runs import DECODER, MDLM, PAIR, make_run, pair_data, text_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"decoder": (DECODER, "language_modelling"), "mdlm": (MDLM, "diffusion")}
    found = {
        name: make_run(folder / name, model, text_data(folder / name), task) for name, (model, task) in kinds.items()
    }
    found["pair"] = make_run(folder / "pair", PAIR, pair_data(folder / "pair"), "translation")
    return found


def generated(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failed(capsys, code, *words):
    assert main([*map(str, words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_decoder_continues_the_prompt(runs, capsys):
    first = generated(capsys, "--run", runs["decoder"], "--prompt", "the quick", "--num-samples", 2, "--seed", 3)
    assert [sample["prompt"] for sample in first["samples"]] == ["the quick"] * 2
    assert all(sample["num_tokens"] <= 8 for sample in first["samples"])
    again = generated(capsys, "--run", runs["decoder"], "--prompt", "the quick", "--num-samples", 2, "--seed", 3)
    assert first["samples"] == again["samples"]
    run = open_run(runs["decoder"])
    prompt = torch.tensor([run.tokenizer.encode("the quick")] * 2)
    generator = torch.Generator().manual_seed(3)
    tokens = run.model.generate(prompt, 8, eos_token=run.tokenizer.eos_token_id, generator=generator)
    assert first["samples"][0]["text"] == run.tokenizer.decode(tokens[0, prompt.shape[1] :].tolist())


def test_diffusion_options_are_refused_by_other_models(runs, capsys):
    for kind in ("decoder", "pair"):
        for option, instead in (
            (("--length", 10), "generation.max_new_tokens"),
            (("--condition", 3), "takes no condition"),
        ):
            words = failed(capsys, 1, "--run", runs[kind], "--prompt", "the", *option)
            assert f"{option[0]} is for diffusion models" in words
            assert instead in words


@pytest.mark.parametrize("prompt", ["The [[x]] of", "The [[-3]] of", "the [[3.] of", "the [[3"])
def test_prompt_with_a_mistyped_hole(runs, capsys, prompt):
    assert "a hole of 12 tokens is [[12]]" in failed(capsys, 1, "--run", runs["mdlm"], "--prompt", prompt)


def test_decoder_without_a_prompt(runs, capsys):
    found = generated(capsys, "--run", runs["decoder"])
    assert len(found["samples"]) == 3
    assert found["notes"] == ["without --prompt a text begins after the token that ends or begins documents"]


def test_translator_needs_a_prompt(runs, capsys):
    words = ("--run", runs["pair"], "--prompt", "the quick", "--prompt", "dog", "--set", "generation.num_beams=2")
    found = generated(capsys, *words, "--num-samples", 1)
    assert [sample["prompt"] for sample in found["samples"]] == ["the quick", "dog"]
    assert "needs a text to translate: --prompt TEXT" in failed(capsys, 1, "--run", runs["pair"])


def test_diffusion_samples_and_infilling(runs, capsys):
    words = ("--run", runs["mdlm"], "--sampler", "ancestral", "--steps", 4, "--num-samples", 5)
    found = generated(capsys, *words)
    assert len(found["samples"]) == 5
    assert found["generation"]["steps"] == 4
    assert all(0 < sample["network_calls"] <= 5 for sample in found["samples"])
    run = open_run(runs["mdlm"])
    tokenizer, drawn = run.tokenizer, []
    draw = DiffusionModel.draw
    DiffusionModel.draw = lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    try:
        generated(capsys, "--run", runs["mdlm"], "--prompt", "the [[3]] jumps[[]]dog", "--num-samples", 2)
    finally:
        DiffusionModel.draw = draw
    for row in drawn[0].tokens.tolist():
        assert row[:4] == tokenizer.encode("the ")
        assert row[7:13] == tokenizer.encode(" jumps")
        assert row[-3:] == tokenizer.encode("dog")
        assert len(row) == 24


def test_sampler_with_settings(runs, capsys):
    """With a large gamma all masks are filled in one call; the output has the settings."""
    chosen = "{type: entropy_bounded, gamma: 1000}"
    found = generated(capsys, "--run", runs["mdlm"], "--sampler", chosen, "--num-samples", 2)
    assert found["generation"]["sampler"] == {"type": "entropy_bounded", "gamma": 1000}
    assert [sample["network_calls"] for sample in found["samples"]] == [1, 1]
    wrong = failed(capsys, 1, "--run", runs["mdlm"], "--sampler", "{type: entropy_bounded, gama: 1}")
    assert "unknown key 'gama'; did you mean 'gamma'?" in wrong


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("[[]]", "only holes and no text"),
        ("a[[]]b[[]]", "two holes"),
        ("a[[30]]", "take 31 tokens, and a sample has 24"),
        ("a" * 25, "take 25 tokens"),
    ],
)
def test_template_that_does_not_fit(prompt, message, runs, capsys):
    assert message in failed(capsys, 1, "--run", runs["mdlm"], "--prompt", prompt)


@pytest.mark.parametrize("kind", ["decoder", "pair", "mdlm"])
def test_lone_surrogate_in_a_prompt_is_refused(kind, runs, capsys):
    words = ["--run", runs[kind], "--prompt", "good", "--prompt", "a\ud800"]
    message = r"the prompt has '\ud800', half of a character (a lone surrogate); write it in UTF-8"
    assert message in failed(capsys, 1, *words)


def test_template_tokens_and_kept_positions(runs):
    tokenizer = open_run(runs["mdlm"]).tokenizer
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    found = read_template("a[[1]]b[[]]c", tokenizer, 6)
    assert found.tokens == [a, 0, b, 0, 0, c]
    assert found.kept == [True, False, True, False, False, True]
    assert read_template("ab", tokenizer, 4).kept == [True, True, False, False]
    assert issubclass(PromptError, ValueError)


def test_invalid_samplers_and_conditions(runs, capsys):
    message = failed(capsys, 1, "--run", runs["mdlm"], "--sampler", "ancestrall")
    assert message.startswith(
        "--sampler ancestrall: generation.sampler: sampler 'ancestrall' is unknown; of absorbing noise are"
    )
    assert "ancestral" in message
    assert "first_hitting" in message
    assert "for diffusion models" in failed(capsys, 1, "--run", runs["decoder"], "--steps", 4)
    assert "trained without a condition" in failed(capsys, 1, "--run", runs["mdlm"], "--condition", "2")
    assert "cannot be changed" in failed(capsys, 1, "--run", runs["mdlm"], "--set", "model.name=x")


def test_conditions_and_guidance_of_diffusion(tmp_path, capsys):
    backbone = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
    section = {**MDLM, "backbone": backbone, "condition": {"type": "class", "num_classes": 3}}
    run = make_run(tmp_path, section, text_data(tmp_path), "diffusion")
    words = ("--run", run, "--steps", 3, "--num-samples", 2, "--set", "generation.guidance=2.0")
    first, other = (generated(capsys, *words, "--condition", label)["samples"] for label in (0, 2))
    assert len(first) == len(other) == 2
    assert "a class from 0 to 2" in failed(capsys, 1, *words, "--condition", 3)
    assert "a class from 0 to 2" in failed(capsys, 1, *words, "--condition", "x")
    assert "but cond is not given" in failed(capsys, 1, *words)


@pytest.mark.parametrize("words", [["--prompt", ""], ["--length", "0"], ["--set", "x"], ["--nope"]])
def test_generate_usage_errors_exit_with_2(words, runs, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--run", str(runs["mdlm"]), *words])
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["config.yml", "model.safetensors", "tokenizer"])
def test_run_folder_with_a_missing_file(name, runs, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(runs["mdlm"], copy)
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"{path} is not there" in failed(capsys, 3, "--run", copy)
    assert "is not there; give the folder of a run" in failed(capsys, 3, "--run", tmp_path / "nowhere")


def test_tokenizer_of_another_run_is_refused(runs, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(runs["pair"], copy)
    shutil.rmtree(copy / "tokenizer")
    shutil.copytree(runs["mdlm"] / "tokenizer", copy / "tokenizer")
    assert "it is another run's tokenizer" in failed(capsys, 3, "--run", copy, "--prompt", "dog")


def test_generate_errors_as_json(runs, capsys):
    assert main(["--run", str(runs["mdlm"]), "--prompt", "[[]]", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["errors"][0]["file"] == str(runs["mdlm"])
    assert "only holes and no text" in report["errors"][0]["message"]


def test_newest_run_is_the_default(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "there is no run folder below ./runs; name one: --run FOLDER" in failed(capsys, 2)
    for age, name in enumerate(("decoder", "mdlm")):
        shutil.copytree(runs[name], tmp_path / "runs" / name)
        for path in (tmp_path / "runs" / name).glob("*.*"):
            os.utime(path, (1e9 - age, 1e9 - age))
    assert newest_run() == Path("runs/decoder")
    assert main(["--prompt", "the é"]) == 0
    out, err = capsys.readouterr()
    assert re.match(
        r"runs/decoder: the newest run\nruns/decoder: on cpu \(\d+ threads?\)\nnote: the prompt has chara", err
    )
    assert out.startswith("--- 1  'the é'\n")


def test_help_has_examples_and_imports_no_torch():
    check = "import sys, model_factory.cli.generate as g, model_factory.cli.evaluate as e\n"
    check += "g.build_parser(), e.build_parser()\nassert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
    for script in ("generate.py", "evaluate.py"):
        shown = subprocess.run(
            [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert "examples:" in shown.stdout
        assert "exit codes: 0 good, 1 invalid, 2 wrong usage" in shown.stdout
        assert len((ROOT / script).read_text().splitlines()) < 100


class EndModel(torch.nn.Module):
    """Custom model that predicts the end token at every free position."""

    def __init__(self, end):
        super().__init__()
        self.end = torch.nn.Parameter(torch.tensor(float(end)))

    def sample(self, count, length, *, prompt=None, frozen=None, generator=None):
        drawn = torch.full((length,), int(self.end))
        return (drawn if prompt is None else torch.where(frozen, prompt, drawn)).expand(count, length)


def test_text_after_hole_is_kept_if_hole_has_end_token(tmp_path):
    data = text_data(tmp_path, documents="line", rows="whole", sequence_length=96)
    run = open_run(make_run(tmp_path, MDLM, data, "diffusion"), ["generation={num_samples: 2}"])
    run = replace(run, model=EndModel(run.tokenizer.eos_token_id))
    found = draw(run, Request(("the [[5]] dog[[]]", "the [[]]", "[[3]]fox"), length=40))
    assert [sample.text for sample in found.samples] == ["the  dog"] * 2 + ["the "] * 2 + ["fox"] * 2
    assert found.notes == []
    assert "'É'" in draw(run, Request(("É [[3]]",), length=40)).notes[0]


def test_unfinished_run_has_a_note(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs["decoder"], run)
    assert open_run(run).notes == []
    (run / "checkpoint-40").mkdir()
    assert open_run(run).notes == []
    opened = open_run(run)
    (run / "model.safetensors").unlink()
    assert opened.notes == ["this run is not finished: weights of step 40 of 1,000"]


def test_broken_pipe_has_no_traceback(runs):
    summary = ["parse_args.py", "--config", "configs/encoder_model.yml", "--summary"]
    for words in (["parse_args.py", "--schema"], summary, ["generate.py", "--run", runs["decoder"], "--json"]):
        done = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        done.stdout.close()
        said = re.sub(rb".*: on cpu \(\d+ threads?\)\n", b"", done.stderr.read())
        assert (said, done.wait()) == (b"", 0)
