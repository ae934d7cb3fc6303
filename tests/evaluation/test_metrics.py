"""Metrics on run folders, against values computed by hand."""

import math
from dataclasses import replace
from typing import Literal

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_manager.dataset_types import DatasetConfig
from data_manager.registry import SOURCES, SourceEntry
from model_factory.evaluation.metrics import bound, judge, supervised
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import metrics_of
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.noise import mix_seed
from tests.evaluation.untrained_runs import (
    DECODER,
    MDLM,
    PAIR,
    STACK,
    Unigram,
    make_run,
    open_with_model,
    pair_data,
    text_data,
)

ALONE = Settings(samples=False)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    return make_run(folder, DECODER, text_data(folder), "language_modelling")


@pytest.fixture(scope="module")
def mdlm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mdlm")
    return make_run(folder, MDLM, text_data(folder), "diffusion")


def test_unigram_bits_match_hand_computation(decoder):
    probabilities = torch.rand(open_run(decoder).tokenizer.vocab_size).softmax(0)
    run, split = open_with_model(decoder, Unigram(probabilities))
    rows = [ids.tolist() for ids in split.rows.table["input_ids"]]
    targets = [token for row in rows for token in row[1:]]
    bits = -sum(math.log2(float(probabilities[token])) for token in targets)
    characters = sum(len(run.tokenizer.decode(row[1:])) for row in rows)
    report = supervised.measure_language(run, split, ALONE)
    assert report.value("bits_per_token") == pytest.approx(bits / len(targets), rel=1e-5)
    assert report.value("bits_per_character") == pytest.approx(bits / characters, rel=1e-5)
    assert report.value("perplexity") == pytest.approx(2 ** (bits / len(targets)), rel=1e-5)
    assert characters < len(targets)  # the end token costs bits and has no character
    figure = report.figures[0]
    assert (figure.n, figure.of) == (len(rows), "rows")
    assert figure.low < figure.value < figure.high


def test_uniform_model_needs_log2_vocabulary_bits(decoder):
    size = open_run(decoder).tokenizer.vocab_size
    run, split = open_with_model(decoder, Unigram(torch.full((size,), 1 / size)))
    figure = supervised.measure_language(run, split, ALONE).figures[0]
    assert (figure.low, figure.value, figure.high) == pytest.approx([math.log2(size)] * 3, rel=1e-5)


def test_row_bounds_add_up_to_the_model_bound(mdlm):
    run = open_run(mdlm)
    split = load_split(run, "test", max_rows=4, seed=0)
    total, parts = bound.bound(run, split, Settings(seed=5))
    (batch,) = split.batches("test")
    with torch.no_grad():
        output = run.model(batch["input_ids"], attention_mask=batch.get("attention_mask"), seed=mix_seed(5, 0))
    tokens = sum(total.tokens)
    assert sum(total.nats) / tokens == pytest.approx(float(output.loss), rel=1e-5)
    for name in bound.PARTS:
        assert sum(parts[name]) / tokens == pytest.approx(float(getattr(output, name)), rel=1e-5, abs=1e-6)


def test_bound_of_a_unigram_denoiser_is_its_cross_entropy(mdlm):
    run = open_run(mdlm)
    split = load_split(run, "test", max_rows=None, seed=0)
    probabilities = torch.rand(run.tokenizer.vocab_size).softmax(0)
    logits = torch.cat([probabilities.log(), torch.zeros(1)])  # the mask, which is never a target
    run.model.denoise = lambda x_t, sigma, mask=None, cond=None: logits.expand(*x_t.shape, -1)
    report = bound.measure(run, split, Settings(draws=200, samples=False))
    targets = [token for ids in split.rows.table["input_ids"] for token in ids.tolist()]
    bits = -sum(math.log2(float(probabilities[token])) for token in targets) / len(targets)
    assert report.value("bits_per_token") == pytest.approx(bits, rel=0.02)
    parts = [report.value(f"{name}_part") for name in bound.PARTS]
    assert sum(parts) == pytest.approx(report.value("bits_per_token"))
    assert report.figures[0].note == "at most"


def test_sample_figures_and_notes(mdlm, decoder):
    for folder in (mdlm, decoder):
        run = open_run(folder, ["generation.num_samples=4"])
        report = metrics_of(run.task_name)(run, load_split(run, "test", max_rows=4, seed=0), Settings())
        assert {figure.name for figure in report.figures} >= {"entropy", "distinct_1"}
        assert any("are few" in note for note in report.notes)
        assert len(report.examples) == 2


def test_translation_figures_match_the_task_loss(tmp_path):
    run = open_run(make_run(tmp_path, PAIR, pair_data(tmp_path), "translation"))
    report = metrics_of("translation")(run, load_split(run, None, max_rows=6, seed=0), Settings())
    assert {figure.name for figure in report.figures} == {
        "bits_per_token",
        "bits_per_character",
        "bits_per_byte",
        "nats_per_pair",
        "perplexity",
        "bleu",
        "chrf",
    }
    assert report.notes[0] == "translated greedily"
    assert report.examples[0].startswith("source      the quick\nreference   kciuq eht\ntranslation ")
    (batch,) = load_split(run, "test", max_rows=3, seed=0).batches("test")
    with torch.no_grad():
        loss = run.task(run.model, batch)["loss"]
    short = metrics_of("translation")(run, load_split(run, "test", max_rows=3, seed=0), Settings())
    assert short.value("bits_per_token") == pytest.approx(float(loss) / math.log(2), rel=1e-5)


class LabelledConfig(DatasetConfig):
    source: Literal["labelled_rows"] = "labelled_rows"


def labelled(config):
    """Make rows whose class is 1 where the first token is above 3."""
    rows = torch.randint(8, (30, 5), generator=torch.Generator().manual_seed(0)).tolist()
    return {"test": datasets.Dataset.from_dict({"input_ids": rows, "labels": [int(row[0] > 3) for row in rows]})}


def test_classification_and_unregistered_tasks_agree(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES._entries, "labelled_rows", SourceEntry(LabelledConfig, labelled))
    model = {"model_type": "encoder", "name": "parity", "encoder": {**STACK, "vocab_size": 8}}
    data = [{"name": "rows", "source": "labelled_rows"}]
    run = open_run(make_run(tmp_path, model, data, "sequence_classification", num_labels=2))
    split = load_split(run, None, max_rows=20, seed=0)
    report = metrics_of("sequence_classification")(run, split, Settings())
    own = metrics_of("custom")(run, split, Settings())
    assert report.value("accuracy") == pytest.approx(own.value("accuracy"))
    assert report.value("cross_entropy") == pytest.approx(own.value("loss") / math.log(2), rel=1e-5)
    assert report.figures[0].method == "Wilson"


def test_judge_from_a_run_folder(decoder):
    one = judge.load_judge(decoder)
    texts = ["the quick brown", "lazy dog", "x"]
    figure = judge.generative_perplexity(one, texts, 0)
    nats, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([one.tokenizer.encode(text)])
        with torch.no_grad():
            probabilities = one.logits(ids)[0].log_softmax(-1)
        nats -= sum(float(probabilities[position, token]) for position, token in enumerate(ids[0, 1:]))
        count += ids.shape[1] - 1
    assert figure.value == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert figure.n == 2  # one letter has no second token


def test_judge_from_a_transformers_folder(tmp_path, decoder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<eos>": 0, "the": 1, "dog": 2, "fox": 3}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<eos>").save_pretrained(tmp_path)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_positions=8, n_embd=8, n_layer=1, n_head=1)).eval()
    model.save_pretrained(tmp_path)
    report = judge.measure_by_judge(tmp_path, ["the dog the fox"], ["the fox"], 0)
    with torch.no_grad():
        loss = model(torch.tensor([[1, 2, 1, 3]]), labels=torch.tensor([[1, 2, 1, 3]])).loss
    assert report.value("generative_perplexity") == pytest.approx(math.exp(loss), rel=1e-4)
    assert any(note.startswith("MAUVE was left out: ") for note in report.notes)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "ln_f" not in key}, tmp_path / "model.safetensors")
    with pytest.raises(
        RunFolderError, match=r"lack 2 of the model's .*: transformer.ln_f.bias, transformer.ln_f.weight"
    ):
        judge.load_judge(tmp_path)


def test_judge_folder_errors(tmp_path, mdlm):
    with pytest.raises(RunFolderError, match="is not there; give a run folder of a decoder"):
        judge.load_judge(tmp_path / "nope")
    with pytest.raises(RunFolderError, match=r"neither config\.yml nor config\.json"):
        judge.load_judge(tmp_path)
    with pytest.raises(UnfitError, match="not a left-to-right language model"):
        judge.load_judge(mdlm)


def test_data_of_another_tokenizer_are_refused(decoder):
    run = open_run(decoder)
    other = type(run.tokenizer)("abc")
    with pytest.raises(UnfitError, match="tokenised by another tokenizer"):
        load_split(replace(run, tokenizer=other), "test", max_rows=None, seed=0)
