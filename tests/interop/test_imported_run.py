"""An imported run is a run: it generates, infills, is evaluated, trained further and adapted, with the source gone."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data_manager.tokenizers.load import load_tokenizer
from model.checkpoints.errors import PublishedError
from model_factory.cli.main import main
from model_factory.evaluation.data import find_data
from model_factory.evaluation.metrics import published
from model_factory.evaluation.metrics.bound import measure
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.settings import Settings
from model_factory.training.run.folder import RunFolder
from tests.interop.published import LENGTH, ROWS, published_state, run_import, write_folder

WORDS = ["</s>", *"abcdefghi"]


def write_tokenizer(folder: Path, *added: str, words: list[str] = WORDS, **roles: str) -> Path:
    """Write a word-level tokenizer of `words` and added special tokens, as `save_pretrained` does."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[-1]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": words[0], "eos_token": words[0], **roles}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Run imported from a folder of a family that is gone."""
    family = getattr(request, "param", "mdlm")
    write_folder(tmp_path / "source", family)
    tokenizer = write_tokenizer(tmp_path / "words")
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(tokenizer))
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "words")
    (tmp_path / "text.txt").write_text("a b c d e f g h i\n" * 20)
    return tmp_path / "run"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("run", ["sedd", "mdlm", "udlm", "gidd"], indirect=True)
def test_imported_run_infills_and_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run", str(run), "--device", "cpu"]
    drawn = printed(capsys, "generate", *words, "--prompt", "a b[[3]]c d[[]]", "--steps", "4", "--num-samples", "2")
    for sample in drawn["samples"]:
        assert sample["num_tokens"] == LENGTH
        assert sample["text"].startswith("a b")
        assert " c d" in sample["text"]
    words += ["--data", str(run.parent / "text.txt"), "--num-samples", "0", "--draws", "32"]
    measured = printed(capsys, "evaluate", *words)
    figures = {figure["name"]: figure["value"] for figure in measured["figures"]}
    parts = sum(figures[f"{name}_part"] for name in ("diffusion", "prior", "reconstruction"))
    assert figures["bits_per_token"] == pytest.approx(parts)
    assert figures["published"] == pytest.approx(figures["diffusion_part"], rel=0.05)
    assert any(note.startswith("published is what the code of") for note in measured["notes"])


def test_imported_bd3lm_generates_by_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "source", "bd3lm")
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(write_tokenizer(tmp_path / "words")))
    drawn = printed(
        capsys, "generate", "--run", str(tmp_path / "run"), "--device", "cpu", "--prompt", "a b", "--num-samples", "1"
    )
    assert drawn["samples"][0]["text"].startswith("a b")


def test_imported_run_without_data_names_the_option(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(run), "--device", "cpu"]) == 1
    assert "names no data set, as imported runs do not; measure it on files: --data FILE" in capsys.readouterr().err


def test_imported_run_without_tokenizer_has_ids_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "source", "mdlm")
    found = run_import(tmp_path / "source", tmp_path / "run")
    assert any("import again with --tokenizer" in note for note in found.notes)
    assert main(["generate", "--run", str(tmp_path / "run"), "--device", "cpu"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("lora", [False, True])
def test_imported_run_is_trained_further(run: Path, lora: bool, tmp_path: Path) -> None:
    extends, named = f"extends: {run}/config.yml", f"model: {{model_type: diffusion, pretrained: {run}}}"
    text = f"""
{extends if lora else named}
global_config: {{output_dir: {tmp_path}/prepared}}
datasets:
  - {{name: text, source: text, data_files: {{train: {tmp_path}/text.txt}}, tokenizer: {{run: {run}}}, rows: packed, sequence_length: 8}}
training: {{{f"init_from: {run}, " if lora else ""}max_steps: 1, batch_size: 2, learning_rate: 1.0e-6, lora: {"{r: 2}" if lora else "null"}}}
"""
    (tmp_path / "tune.yml").write_text(text)
    assert (
        main(
            [
                "train",
                "--config",
                str(tmp_path / "tune.yml"),
                "--output",
                str(tmp_path / "tuned"),
                "--set",
                "model.backbone.device=cpu",
            ]
        )
        == 0
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "tuned"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_imported_classes_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "source", "udlm", published_state("udlm", classes=3), cfg=True, cfg_num_classes=3)
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(write_tokenizer(tmp_path / "words")))
    words = ["--run", str(tmp_path / "run"), "--device", "cpu", "--set", "generation.guidance=2"]
    assert printed(capsys, "generate", *words, "--condition", "2", "--steps", "2")["samples"]
    (tmp_path / "data.csv").write_text("text,label\n" + "a b c,1\nd e,2\n" * 5)
    found = printed(
        capsys,
        "evaluate",
        "--run",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--data",
        str(tmp_path / "data.csv"),
        "--num-samples",
        "0",
    )
    assert found["rows"] == 10


def test_import_takes_settings_of_the_run_but_not_of_the_network(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm")
    words = ["import", "--from", str(tmp_path / "source"), "--output", str(tmp_path / "run")]
    assert main([*words, "--set", "model.backbone.num_heads=4"]) == 1
    assert not (tmp_path / "run").exists()
    assert main([*words, "--set", "generation.steps=7", "--set", "model.backbone.device=cpu"]) == 0
    config = RunFolder(tmp_path / "run").read_config()
    assert config.generation is not None
    assert config.generation.steps == 7


def test_published_figure_is_the_diffusion_part_at_published_times(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At times of (almost) 1 all tokens are masked, so the figure is their mean cross-entropy."""
    loaded = open_run(run, device="cpu")
    monkeypatch.setattr(published, "_RANGES", {"mdlm": (1 - 1e-9, 1.0)})
    entry = find_data(loaded, [str(run.parent / "text.txt")])
    split = load_split(loaded, None, max_rows=4, seed=0, other=entry)
    figures = {figure.name: figure for figure in measure(loaded, split, Settings(samples=False)).figures}
    batch = next(split.batches("test"))
    ids = batch["input_ids"]
    with torch.no_grad():
        logits = loaded.model.denoise(torch.full_like(ids, ROWS - 1), None)[..., : ROWS - 1].double()
    masked = 1 - 1e-3  # of the tokens at t = 1
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    assert figures["published"].value == pytest.approx(nats.mean().item() / math.log(2) * masked, rel=2e-2)


# Tokenizers.


def test_mask_of_a_tokenizer_is_no_data_token(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "gidd")
    words = [*WORDS, "j"]
    write_tokenizer(tmp_path / "source", words=words, mask_token="[MASK]")
    run_import(tmp_path / "source", tmp_path / "run")
    tokenizer = load_tokenizer(tmp_path / "run/tokenizer")
    assert tokenizer.vocab_size == ROWS - 1
    assert tokenizer.decode(tokenizer.encode("a b j")) == "a b j"


def test_mask_inside_a_tokenizer_is_the_networks(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm")
    words = ["</s>", "a", "[MASK]", *"bcdefghij"]
    write_tokenizer(tmp_path / "source", words=words, mask_token="[MASK]")
    found = run_import(tmp_path / "source", tmp_path / "run")
    assert dict(found.facts)["mask"] == "token 2"
    assert load_tokenizer(tmp_path / "run/tokenizer").vocab_size == ROWS


def test_tokenizer_with_more_tokens_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm")
    tokenizer = write_tokenizer(tmp_path / "words", words=[*WORDS, "j", "k"])
    with pytest.raises(PublishedError, match="the tokenizer has 12 tokens, and the network 11"):
        run_import(tmp_path / "source", tmp_path / "run", tokenizer=str(tokenizer))
