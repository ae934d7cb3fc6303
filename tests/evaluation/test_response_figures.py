"""Losses, bounds and figures of rows with responses: of the responses alone, given their prompts, on a known canvas."""

import json
import math
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_manager.data_manager import DatasetManager
from data_manager.text.table_types import JsonDatasetConfig
from model_factory.diffusion.objectives.losses import SubsLoss
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from model_factory.evaluation.data import find_data
from model_factory.evaluation.metrics import bound, supervised
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.settings import Settings
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import counted_tokens
from model_factory.yaml_config.dump import dump
from tests.data_manager.text_configs import BYTES, shared
from tests.evaluation.untrained_runs import DECODER, MDLM, Unigram, make_run, open_with_model
from tests.oracles.diffusion_bounds import quadrature

ALONE = Settings(samples=False)
BYTE_IDS = 259
PAIRS = {("a", ""): 1, ("a", "x"): 2, ("a", "yx"): 3, ("b", "y"): 4, ("b", "xx"): 1, ("b", ""): 2}
"""Number of times that each prompt and response occurs."""


def responses(folder: Path, *pairs: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"q": question, "a": answer}) + "\n" for question, answer in pairs)
    (folder / "a.jsonl").write_text(lines)
    files = {split: str(folder / "a.jsonl") for split in ("train", "test")}
    entry = {
        "name": "tiny",
        "source": "json",
        "data_files": files,
        "tokenizer": {"type": "bytes"},
        "sequence_length": 9,
    }
    return [entry | {"template": "{q}={a:response}"} | more]


ANSWERS = (("1+1", "2"), ("22", "four"), ("x", ""))


def test_decoder_loss_is_of_responses_and_their_ends(tmp_path: Path) -> None:
    probabilities = torch.rand(BYTE_IDS).softmax(0)
    run, split = open_with_model(
        make_run(tmp_path, DECODER, responses(tmp_path, *ANSWERS), "language_modelling"), Unigram(probabilities)
    )
    learnt = [*b"2", 258, *b"four", 258, 258]
    nats = -float(probabilities[learnt].double().log().sum())
    report = supervised.measure_language(run, split, ALONE)
    assert report.value("bits_per_token") == pytest.approx(nats / math.log(2) / len(learnt), rel=1e-5)
    assert report.value("nats_per_row") == pytest.approx(nats / 3, rel=1e-5)
    assert report.value("bits_per_character") == pytest.approx(nats / math.log(2) / len("2four"), rel=1e-5)
    assert report.figures[0].note == "given the prompts"
    (batch,) = split.batches("test")
    assert float(run.task.weight(batch)) == len(learnt)
    with torch.no_grad():
        assert float(run.task(run.model, batch)["loss"]) == pytest.approx(nats / len(learnt), rel=1e-5)


def test_decoder_samples_continue_whole_prompts(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path, DECODER, responses(tmp_path, *ANSWERS), "language_modelling"))
    (batch,) = load_split(run, "test", max_rows=None, seed=0).batches("test")
    texts = run.task.samples(run.model, batch, torch.Generator().manual_seed(0))
    assert [text.split("|")[0] for text in texts] == ["1+1=", "22=", "x="]


def test_bound_is_of_responses_on_the_canvas(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path, MDLM, responses(tmp_path, *ANSWERS), "diffusion"))
    split = load_split(run, "test", max_rows=None, seed=0)
    total, _ = bound.bound(run, split, ALONE)
    assert total.tokens == [4, 5, 6]  # the canvas has 9 tokens, of which the prompts have the rest
    assert [sum(size) for size in total.sizes] == [2, 8, 0]
    report = bound.measure(run, split, ALONE)
    assert {figure.note for figure in report.figures[:4]} == {"at most, at eps 0 by counts, given the prompts"}
    assert report.notes[0].startswith("rows are filled with end tokens up to 9 tokens")
    texts = run.task.samples(run.model, next(iter(split.batches("test"))), torch.Generator().manual_seed(0))
    assert [text.split("|")[0] for text in texts] == ["1+1=", "22=", "x="]


def test_samples_write_the_last_response(tmp_path: Path) -> None:
    (entry,) = responses(tmp_path, *ANSWERS[:2], template="{q}={a:response}={a:response}", sequence_length=14)
    run = open_run(make_run(tmp_path, MDLM, [entry], "diffusion"))
    (batch,) = load_split(run, "test", max_rows=None, seed=0).batches("test")
    texts = run.task.samples(run.model, batch, torch.Generator().manual_seed(0))
    assert [text.split("|")[0] for text in texts] == ["1+1=2=", "22=four=", "1+1=2="]


def test_other_data_have_responses_too(tmp_path: Path) -> None:
    (entry,) = responses(tmp_path, *ANSWERS, fill="hidden")
    run = open_run(make_run(tmp_path, MDLM, [entry], "diffusion"))
    other = tmp_path / "b.jsonl"
    other.write_text('{"q": "a", "a": "b", "text": "c"}\n')
    found: Any = find_data(run, [str(other)])
    assert (found.template, found.has_responses, found.is_filled) == ("{q}={a:response}", True, False)
    file = tmp_path / "data.yml"
    entry = {key: value for key, value in entry.items() if key != "fill"}
    file.write_text(dump({"datasets": [{**entry, "name": "b", "data_files": {"test": str(other)}}]}))
    assert find_data(run, [str(file)]).fill == "hidden"  # type: ignore[attr-defined]
    (tmp_path / "c.txt").write_text("c\n")
    for given in (([str(other)], ["text"]), ([str(tmp_path / "c.txt")],)):
        with pytest.raises(
            UnfitError, match="is a run on texts with responses; give a table with the columns of its templ"
        ):
            find_data(run, *given)


@pytest.mark.parametrize(
    ("more", "note", "remark"),
    [
        ({"fill": "hidden"}, "given the prompts and the lengths", "padding is hidden, so the bound is given"),
        ({"template": "{a:response}={q}"}, "given the prompts and the lengths", "in 2 of 2 rows text follows"),
        ({"template": "{q}={a}", "rows": "whole"}, "given the lengths", "padding is hidden"),
        ({"template": "{q}={a}", "rows": "whole", "fill": "end"}, "", "rows are filled with end tokens up to 9"),
        ({"template": "{q}={a}"}, "", ""),
    ],
)
def test_report_says_what_a_bound_is_given(tmp_path: Path, more: dict[str, Any], note: str, remark: str) -> None:
    run = open_run(make_run(tmp_path, MDLM, responses(tmp_path, *ANSWERS[:2], **more), "diffusion"))
    report = bound.measure(run, load_split(run, "test", max_rows=None, seed=0), ALONE)
    assert report.figures[0].note == ", ".join(filter(None, ("at most, at eps 0 by counts", note)))
    assert remark == "" or any(found.startswith(remark) for found in report.notes)
    assert ("nats_per_row" in {figure.name for figure in report.figures}) == (note != "" or "fill" in more)


def toy_rows(folder: Path, **more: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Return the batch of all prompts and responses, and their probabilities float64 [B]."""
    (entry,) = responses(folder, *PAIRS, template="{q}{a:response}", **more)
    config = JsonDatasetConfig(**{**entry, "tokenizer": BYTES, "global_config": shared(folder)})
    data: Any = DatasetManager.load_dataset(config)["train"]
    weights = torch.tensor(list(PAIRS.values()), dtype=torch.float64)
    return DatasetManager.collator(config, data)([data[index] for index in range(len(data))]), weights / weights.sum()


def oracle_bound(batch: dict[str, Tensor], probability: Tensor) -> float:
    """Compute the bound of the network that knows the distribution of rows, in nats a row, by sums over masked places.

    It is shown what a network is: the tokens that are not masked, and the places that the attention mask hides.
    """
    ids, real, counted = batch["input_ids"], batch["attention_mask"], counted_tokens(batch)
    objective = SubsLoss(DiffusionProcess(AbsorbingGraph(BYTE_IDS), LogLinearNoise(0.0)))
    total = 0.0
    for row, weight in enumerate(probability.tolist()):
        places = counted[row].nonzero().flatten().tolist()
        for hidden in product((False, True), repeat=len(places)):
            masked = torch.zeros_like(counted[row]).scatter(0, torch.tensor(places), torch.tensor(hidden))
            fits = ((ids == ids[row]) | masked | ~real[row]).all(1) & (real == real[row]).all(1)
            fitting = torch.nn.functional.one_hot(ids, BYTE_IDS + 1) * (probability * fits)[:, None, None]
            logits = (fitting.sum(0) / (probability * fits).sum()).log().clamp(min=-1e4)[None]
            x_t = ids[row].masked_fill(masked, BYTE_IDS)[None]
            for t, share in quadrature(len(places) + 1):
                chance = t ** sum(hidden) * (1 - t) ** (len(places) - sum(hidden))
                loss = objective.diffusion(logits, x_t, ids[row][None], torch.tensor([t], dtype=torch.float64))
                total += weight * share * chance * float((loss * counted[row]).sum())
    return total


def entropy(counts: Counter[Any]) -> float:
    found = np.array(list(counts.values()), np.float64) / sum(counts.values())
    return float(-(found * np.log(found)).sum())


def test_bound_at_the_oracle_is_the_entropy_of_responses_given_prompts(tmp_path: Path) -> None:
    prompts, lengths = Counter[str](), Counter[tuple[str, int]]()
    for (prompt, answer), count in PAIRS.items():
        prompts[prompt] += count
        lengths[prompt, len(answer)] += count
    joint = entropy(Counter(PAIRS))
    filled = oracle_bound(*toy_rows(tmp_path, sequence_length=5))
    assert filled == pytest.approx(joint - entropy(prompts), abs=1e-12)
    longer = oracle_bound(*toy_rows(tmp_path, sequence_length=6))  # a longer canvas has more tokens, not more nats
    assert longer == pytest.approx(filled, abs=1e-12)
    hidden = oracle_bound(*toy_rows(tmp_path, fill="hidden"))  # H(response | prompt) - H(length | prompt)
    assert hidden == pytest.approx(joint - entropy(lengths), abs=1e-12)
    assert filled - hidden > 0.5
