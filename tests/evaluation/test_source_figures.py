"""Figures per character and per byte, and scores against texts, take the text of the files, not a decode of the rows."""

import math
from dataclasses import replace

import pytest
import torch

from model_factory.evaluation.metrics import bound, supervised
from model_factory.evaluation.metrics.latent import measure_rows
from model_factory.evaluation.metrics.texts import split_texts
from model_factory.evaluation.metrics.translation import corpus_score
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import metrics_of
from tests.evaluation.untrained_runs import DECODER, MDLM, PAIR, Unigram, make_run, open_with_model, text_data

ALONE = Settings(samples=False)
CHINESE, EMOJI = "床前明月光疑是地上霜" * 60, "😀😃😄😁" * 60


def data_of(folder, text, **more):
    (entry,) = text_data(folder, sequence_length=32, **more)
    (folder / "test.txt").write_text(text)
    return [entry]


@pytest.mark.parametrize(("text", "size"), [(CHINESE, 3), (EMOJI, 4), ("abc" * 99, 1)])
@pytest.mark.parametrize("rows", ["cut", "packed"])
def test_bits_per_character_of_bytes_do_not_depend_on_row_ends(tmp_path, text, size, rows):
    """Each predicted byte is 1 / size characters, so the bits of a character are those of `size` bytes."""
    data = data_of(tmp_path, text, tokenizer={"type": "bytes"}, rows=rows)
    run, split = open_with_model(
        make_run(tmp_path, DECODER, data, "language_modelling"), Unigram(torch.full((259,), 1 / 259))
    )
    report = supervised.measure_language(run, split, ALONE)
    count = len(text.encode())
    predicted = count + 1 - len(split)  # bytes and the end token, but the first token of each row
    assert report.value("bits_per_byte") == pytest.approx(math.log2(259) * predicted / (predicted - 1))
    assert report.value("bits_per_character") == pytest.approx(size * report.value("bits_per_byte"))
    assert report.notes == []


def test_bound_per_character_covers_the_whole_text(tmp_path):
    data = data_of(tmp_path, CHINESE, tokenizer={"type": "bytes"})
    run = open_run(make_run(tmp_path, MDLM, data, "diffusion"))
    split = load_split(run, "test", max_rows=None, seed=0)
    total, _ = bound.bound(run, split, ALONE)
    figures = {figure.name: figure for figure in total.figures(0, note="at most")}
    bits = sum(total.nats) / math.log(2)
    assert figures["bits_per_character"].value == pytest.approx(bits / len(CHINESE))
    assert figures["bits_per_byte"].value == pytest.approx(bits / len(CHINESE.encode()))
    assert figures["bits_per_byte"].note == "at most"
    few = load_split(run, "test", max_rows=3, seed=0)
    total, _ = bound.bound(run, few, ALONE)
    assert [sum(side) for side in zip(*total.sizes, strict=True)] == pytest.approx([32.0, 96.0])


def test_lost_words_count_as_characters(tmp_path):
    """Two words are unknown to the WordPiece, whose decode also puts spaces around the apostrophe."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["[UNK]", "the", "dog", "don", "'", "t", "see", "<eos>"])}
    inner = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="<eos>").save_pretrained(
        tmp_path / "words"
    )
    line = "the dog don't see the Φειδίας, zebra"
    data = data_of(tmp_path, line, tokenizer={"type": "hugging_face", "path": str(tmp_path / "words")})
    folder = make_run(tmp_path, DECODER, data, "language_modelling")
    size = open_run(folder).tokenizer.vocab_size
    run, split = open_with_model(folder, Unigram(torch.full((size,), 1 / size)))
    report = supervised.measure_language(run, split, ALONE)
    (row,) = split.rows.table["input_ids"]
    bits = math.log2(size) * (len(row) - 1)
    assert report.value("bits_per_character") == pytest.approx(bits / (len(line) - len("the")))
    assert report.value("bits_per_byte") == pytest.approx(bits / (len(line.encode()) - len("the")))
    assert report.figures[1].note == "3 unknown tokens"  # the two words and the comma
    assert report.notes[0].startswith(f"3 of {len(row) - 1} tokens are unknown: ")
    assert split_texts(run, split, 1) == [line]


def test_texts_of_a_split_are_those_of_the_file(tmp_path):
    """MAUVE compares samples with these; a character is in the row in which it begins."""
    data = data_of(tmp_path, CHINESE, tokenizer={"type": "bytes"})
    run = open_run(make_run(tmp_path, DECODER, data, "language_modelling"))
    split = load_split(run, "test", max_rows=None, seed=0)
    assert "".join(split_texts(run, split, len(split))) == CHINESE


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({"sequence_length": 16, "too_long": "cut"}, ["a truncated source", "a truncated target"]),
        ({"sequence_length": 128}, ["8 of 72 tokens are unknown: "]),
    ],
)
def test_translations_are_scored_against_the_file(tmp_path, settings, notes):
    """A reference that is cut, or that has a letter unknown to the tokenizer, is scored as the file has it."""
    files = {
        split: {side: str(tmp_path / f"{split}.{side}") for side in ("source", "target")} for split in ("train", "test")
    }
    for split, source, target in (
        ("train", "the dog", "THE DOGS SEE"),
        ("test", "the dog sees the dog", "THE DOG SEES ΩΩ T"),
    ):
        (tmp_path / f"{split}.source").write_text(f"{source}\n" * 4)
        (tmp_path / f"{split}.target").write_text(f"{target}\n" * 4)
    data = [{"name": "pairs", "source": "text", "data_files": files, **settings}]
    run = open_run(make_run(tmp_path, PAIR, data, "translation"))
    split = load_split(run, "test", max_rows=None, seed=0)
    reference = "THE DOG SEES ΩΩ T"
    run.model.generate = lambda *given, **options: torch.tensor([run.tokenizer.encode("THE DOG SEES")] * 4)
    report = metrics_of("translation")(run, split, Settings())
    expected, _ = corpus_score("bleu", ["THE DOG SEES"] * 4, [reference] * 4, 0)
    assert expected.value < 80
    assert report.value("bleu") == expected.value
    assert report.examples[0].splitlines()[:2] == ["source      the dog sees the dog", f"reference   {reference}"]
    said = "\n".join(report.notes)
    for note in notes:
        assert note in said


def test_reconstructions_are_scored_against_the_file(latent_run):
    run = open_run(latent_run)
    split = load_split(run, "train", max_rows=4, seed=0)
    found = measure_rows(run, split, Settings())
    (batch,) = split.batches("train", size=4)
    assert found.references == batch["input_text"]


def test_skipped_rows_are_said_beside_the_figures(tmp_path):
    long = {"rows": "whole", "documents": "line", "sequence_length": 20, "too_long": "skip"}
    (entry,) = text_data(tmp_path, **long)
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("the dog\na dog that is too long for a row\n")
    run = open_run(make_run(tmp_path, DECODER, [entry], "language_modelling"))
    split = load_split(run, "test", max_rows=None, seed=0)
    assert len(split) == 1
    assert "1 skipped: more than sequence_length 20 tokens" in split.notes[0]


def test_rows_of_ids_without_text_have_no_bits_per_character(tmp_path):
    data = data_of(tmp_path, "abc", tokenizer={"type": "bytes"})
    run = open_run(make_run(tmp_path, DECODER, data, "language_modelling"))
    split = load_split(run, "test", max_rows=None, seed=0)
    plain = replace(split, rows=type(split.rows)(split.rows.table.remove_columns(["input_text", "input_size"])))
    report = supervised.measure_language(run, plain, ALONE)
    assert [figure.name for figure in report.figures] == ["bits_per_token", "perplexity"]
    assert report.notes == ["bits_per_character is left out: the data set gives token ids without their text"]
