"""`document_ids: true` in tasks and evaluation: losses and figures of packed rows are those of their documents."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_manager.data_manager import DatasetManager
from model_factory.evaluation.metrics.bound import bound
from model_factory.evaluation.metrics.supervised import split_nll
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.discrete import draw_lengths
from model_factory.evaluation.sampling.draw import draw, encode_start
from model_factory.evaluation.sampling.sample import Request
from model_factory.evaluation.settings import Settings
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import next_token_loss
from model_factory.training.tasks.diffusion import Diffusion
from model_factory.training.tasks.language_modelling import LanguageModelling
from tests.evaluation.untrained_runs import DECODER, MDLM, STACK, make_run
from tests.model import tiny

LINES = ["the quick brown fox", "a", "jumps over", "the lazy dog and the dog does not mind at all", "ok"]


def packed(folder: Path, **more: Any) -> list[dict[str, Any]]:
    """Write a data set of short documents in packed rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text("\n".join(LINES * 3) + "\n")
    files = {split: str(folder / "a.txt") for split in ("train", "test")}
    layout = {"documents": "line", "rows": "packed", "document_ids": True, "sequence_length": 24}
    return [{"name": "tiny", "source": "text", "data_files": files, **layout, **more}]


def documents_of(batch: dict[str, Any], row: int) -> list[torch.Tensor]:
    """Return the tokens of each document in a row."""
    ids, numbers = batch["input_ids"][row], batch["document_ids"][row]
    return [ids[numbers == number] for number in range(1, int(numbers.max()) + 1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    linear = {**STACK, "attention_type": "causal_linear", "dropout": 0.0}
    return open_run(make_run(folder, {**DECODER, "decoder": linear}, packed(folder), "language_modelling"))


@pytest.mark.parametrize("attention", ["softmax", "causal_linear"])
def test_the_loss_of_a_packed_row_is_that_of_its_documents(attention: str) -> None:
    """A document in a row begins with the end token before it, from which alone its first token is predicted."""
    torch.manual_seed(0)
    model, eos = tiny.decoder(vocab_size=tiny.VOCAB, attention_type=attention).double(), 2
    rows = [[5, 6, 7, eos, 8, eos, 9, 3, 4, 3, eos, 7], [4, 5, eos, 6, 7, eos]]
    numbers = [[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4], [1, 1, 1, 2, 2, 2]]
    alone = [[5, 6, 7, eos], [eos, 8, eos], [eos, 9, 3, 4, 3, eos], [eos, 7], [4, 5, eos], [eos, 6, 7, eos]]
    ids, documents = (torch.tensor([part[0], part[1] + [0] * 6]) for part in (rows, numbers))
    batch = {"input_ids": ids, "document_ids": documents, "attention_mask": documents > 0}
    task = LanguageModelling(None)  # type: ignore[arg-type]
    found = task(model, batch)["loss"].detach()
    total = 0.0
    for row in map(torch.tensor, alone):
        real = torch.ones(1, len(row), dtype=torch.bool)
        total += float(next_token_loss(model(row[None, :-1]), row[None], real).detach()) * (len(row) - 1)
    assert float(task.weight(batch)) == sum(len(row) - 1 for row in alone)
    assert float(found) == pytest.approx(total / float(task.weight(batch)), abs=1e-6)
    joined = task(model, {**batch, "document_ids": torch.ones_like(documents)})["loss"].detach()
    assert float(found) != pytest.approx(float(joined), abs=1e-3)


def test_a_packed_split_is_measured_document_by_document(run) -> None:
    split = load_split(run, "test", max_rows=None, seed=0)
    nats = split_nll(run, split, Settings()).nats
    [batch] = split.batches("all", size=100)
    eos, wanted = run.tokenizer.eos_token_id, []
    for row in range(len(nats)):
        total = 0.0
        for number, ids in enumerate(documents_of(batch, row)):
            ids = ids if number == 0 else torch.cat([torch.tensor([eos]), ids])
            if len(ids) > 1:
                losses = run.model(ids[None, :-1]).log_softmax(-1)[0].gather(1, ids[1:, None])
                total -= float(losses.sum())
        wanted.append(total)
    assert nats == pytest.approx(wanted, abs=1e-4)


def test_texts_of_isolated_documents_begin_after_the_end_token(run) -> None:
    tokenizer = run.tokenizer
    assert encode_start(run, None)[0].ids == [tokenizer.eos_token_id]
    assert encode_start(run, "the")[0].ids == [tokenizer.eos_token_id, *tokenizer.encode("the")]
    [batch] = load_split(run, "test", max_rows=2, seed=0).batches("all")
    [first, _] = run.task.samples(run.model, batch, torch.Generator().manual_seed(0))[:2]
    assert first.split("|")[0] in LINES[0]


def test_the_bound_of_a_packed_split_sees_single_documents(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path, MDLM, packed(tmp_path), "diffusion"), ["generation.num_samples=30"])
    split = load_split(run, "test", max_rows=2, seed=0)
    called, network = [], run.model.network.forward

    def watch(x_t, sigma=None, *, documents=None, **more):
        called.append(documents)
        return network(x_t, sigma, documents=documents, **more)

    run.model.network.forward = watch
    bound(run, split, Settings(seed=0, draws=1))
    [batch] = split.batches("all")
    assert called
    assert all(torch.equal(documents, batch["document_ids"]) for documents in called)
    lengths = draw_lengths(run, 200, 0)
    rows = DatasetManager.load_dataset(run.dataset_config)["train"]
    starts = rows["document_starts"]
    edges = [[0, *row, len(ids)] for row, ids in zip(starts, rows["input_ids"], strict=True)]
    assert set(lengths.tolist()) == {end - start for row in edges for start, end in pairwise(row)}
    samples = draw(run, Request(seed=0)).samples
    assert len({len(sample.tokens) for sample in samples}) > 2


def test_a_model_without_documents_is_refused() -> None:
    class Own(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            raise AssertionError

    batch = {"input_ids": torch.zeros(1, 2, dtype=torch.long), "document_ids": torch.ones(1, 2, dtype=torch.long)}
    noise = SimpleNamespace(place=torch.zeros(1), batch_size=1, step_seed=0)
    setting: Any = SimpleNamespace(training=SimpleNamespace(loss_weighting="bound"))
    with pytest.raises(UnfitError, match=r"Own.forward has no keyword documents; set document_ids: false"):
        Diffusion(setting)(Own(), {**batch, "noise": noise})
