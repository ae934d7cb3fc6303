"""Files with `objective: {type: flexmdm}`: what is refused, and a run from training to its figures and samples."""

import json
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from model_factory.evaluation.metrics.bound import measure
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import LoadedRun, open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.prompt import PromptError
from model_factory.evaluation.sampling.sample import Request
from model_factory.evaluation.settings import Settings
from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import TaskSetting
from model_factory.training.tasks.diffusion import Diffusion
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError

BACKBONE = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
BERT = {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
LINES = ["moss", "rain on hills", "a heron", "wind", "an owl at dusk", "fog"]


def write(folder: Path, change: dict[str, Any] | None = None) -> Path:
    """Write a file of a tiny model of lines, with keys by their path changed, or removed by None."""
    (folder / "lines.txt").write_text("\n".join(LINES * 4) + "\n")
    files = {split: str(folder / "lines.txt") for split in ("train", "test")}
    tokens = {"sequence_length": 20, "rows": "whole", "documents": "line", "tokenizer": {"type": "characters"}}
    content: dict[str, Any] = {
        "model": {"model_type": "diffusion", "objective": {"type": "flexmdm"}, "backbone": dict(BACKBONE)},
        "global_config": {"output_dir": str(folder / "prepared")},
        "datasets": {"lines": {"name": "lines", "source": "text", "data_files": files, **tokens}},
        "training": {"max_steps": 2, "batch_size": 4, "eval_split": "test", "eval_steps": 2},
        "generation": {"sampler": "thinned_insertion", "steps": 6, "num_samples": 3},
    }
    for path, value in (change or {}).items():
        *parents, key = path.split(".")
        section = content
        for name in parents:
            section = section[name]
        section[key] = value
        if value is None:
            del section[key]
    content["datasets"] = list(content["datasets"].values())
    file = folder / "flexmdm.yml"
    file.write_text(dump(content))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("flexmdm")
    train(read_experiment(write(folder)).config, folder / "run")
    return open_run(folder / "run", device="cpu")


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        (
            {"datasets.lines.rows": "cut"},
            "datasets.0.rows",
            "learn where a text ends, and rows are cut; try rows: whole",
        ),
        (
            {
                "datasets.lines.data_files": {"train": {"source": "a.txt", "target": "b.txt"}},
                "training": {"max_steps": 2},
            },
            "model.objective.type",
            "no distribution of a text given another",
        ),
        ({"datasets.lines.rows": "packed", "datasets.lines.document_ids": True}, "datasets.0.rows", "rows are packed"),
        (
            {"datasets.lines.sequence_length": None},
            "datasets.0.sequence_length",
            "gaps of 0 to sequence_length tokens, which is not set",
        ),
        (
            {"generation.sampler": "first_hitting"},
            "generation.sampler",
            "objective flexmdm are insertion, thinned_insertion",
        ),
        ({"generation.sampler": {"type": "entropy_bounded"}}, "generation.sampler", "does not fit objective flexmdm"),
        ({"model.objective": {"type": "mdlm"}}, "generation.sampler", "does not fit absorbing noise"),
        ({"model.objective.gaps": "expected"}, "generation.sampler", "thinned_insertion draws the sizes of gaps"),
        ({"generation.steps": 1}, "generation.steps", "the last one unmasks them"),
        ({"model.objective.gaps": "most"}, "model.objective.gaps", "counts, expected"),
        ({"model.backbone": BERT | {"max_length": 20}}, "model.backbone.max_length", "the backbone reads at most 19"),
        ({"model.time_conditioning": False}, "model.time_conditioning", "needs time conditioning"),
    ],
    ids=str,
)
def test_unfit_files_are_refused_at_their_line(change: dict[str, Any], path: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_experiment(write(tmp_path, change))
    problem = next(one for one in raised.value.problems if one.path == path)
    assert words in problem.message
    assert problem.place.line > 1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model.objective.gaps": "expected", "datasets.lines.sequence_length": None, "generation.sampler": "insertion"},
        {"datasets.lines.sequence_length": None, "model.length": 20},
        {"model.backbone": BERT | {"max_length": 21}},
    ],
    ids=str,
)
def test_fitting_files_are_accepted(change: dict[str, Any], tmp_path: Path) -> None:
    assert read_experiment(write(tmp_path, change)).config.model is not None


@pytest.mark.parametrize(
    ("named", "is_refused"),
    [
        ({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}, True),
        ({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, True),
        ({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<pad>"}, False),
        ({"tokenizer_class": "BertTokenizer"}, False),
    ],
    ids=str,
)
def test_padding_that_is_the_end_token_is_refused(named: dict[str, str], is_refused: bool, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    file = write(tmp_path, {"datasets.lines.tokenizer": {"type": "hugging_face", "path": str(folder)}})
    if not is_refused:
        read_experiment(file)
        return
    with pytest.raises(ConfigError) as raised:
        read_experiment(file)
    [problem] = raised.value.problems
    assert problem.path == "datasets.0.tokenizer.path"
    assert "the padding of this tokenizer is its end token" in problem.message


def test_padding_that_is_the_end_token_is_refused_before_training(run: LoadedRun) -> None:
    tokenizer = copy(run.require_tokenizer())
    Diffusion(TaskSetting(run.config, tokenizer)).check(run.model)
    tokenizer.pad_token_id = tokenizer.eos_token_id
    with pytest.raises(UnfitError, match="learns where rows end, and the padding of this tokenizer is its end token"):
        Diffusion(TaskSetting(run.config, tokenizer)).check(run.model)


def test_report_names_the_parts_of_the_bound(run: LoadedRun) -> None:
    split = load_split(run, "test", max_rows=8, seed=0)
    report = measure(run, split, Settings(draws=2))
    figures = {figure.name: figure for figure in report.figures}
    assert {"bits_per_token", "bits_per_character", "perplexity", "unmasking_part", "insertion_part"} <= set(figures)
    assert not {"diffusion_part", "prior_part", "reconstruction_part"} & set(figures)
    parts = figures["unmasking_part"].value + figures["insertion_part"].value
    assert parts == pytest.approx(figures["bits_per_token"].value)
    assert figures["bits_per_token"].note == "at most"
    assert len(report.examples) == 2


def test_samples_draw_their_lengths(run: LoadedRun) -> None:
    found = draw(run, Request(seed=1)).samples
    assert len(found) == 3
    assert [sample.network_calls for sample in found] == [6] * 3
    longest = draw(run, Request(seed=1, length=4)).samples
    assert all(len(sample.tokens) <= 4 for sample in longest)
    with pytest.raises(PromptError, match="has no distribution given a prompt"):
        draw(run, Request(prompts=("rain",), seed=1))
    written = (run.folder / "samples.txt").read_text()
    assert written.startswith("===== step 2 =====")
