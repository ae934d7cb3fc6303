"""Rows with responses: templates, the tokens that are learnt, and messages about invalid rows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import TokenizerConfig
from data_manager.errors import DataError
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.template import parse_template
from tests.data_manager.response_tables import (
    CHATML,
    CHATML_TOKENS,
    QUESTIONS,
    TALK,
    chat_tokenizer,
    rows,
    table,
    talks,
)
from tests.data_manager.text_configs import BYTES, notes, shared, text_config


def test_template_marks_its_responses() -> None:
    template = parse_template("Q {q.x}: { a :response} {{b}} {c:response}")
    assert template.columns == ["q", "a", "c"]
    assert template.has_responses
    assert template.ends_with_response
    text, spans = template.fill_spans({"q": {"x": 1}, "a": "two", "c": ""}) or ("", ())
    assert (text, [text[start:end] for start, end in spans]) == ("Q 1:  two {b} ", [" two", ""])
    assert not parse_template("{a:response}.").ends_with_response
    assert parse_template("{a:b}").columns == ["a:b"]
    assert not parse_template("{a:b}").has_responses


@pytest.mark.parametrize("text", ["{a:respons}", "{response:a}", "{a: Response}"])
def test_misspelt_response_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=re.escape("a column that is a response is written {a:response}")):
        table(tmp_path, template=text)


def test_rows_have_a_response_mask(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert rows(found) == ["<1>1+1\n[2<2>]", "<1>é?\n[ja<2>]".replace("é", "�" * 2), "<1>x\n[<2>]"]
    assert found.layout == "whole"
    assert found.limit == 256
    assert notes(found) == ["train: 1 kept: empty response (a.jsonl:3)"]
    several = table(tmp_path, [{"q": "a", "a": "b"}], template="{a:response}-{q}-{a:response}+")
    assert rows(several) == ["<1>[b]-a-[b]+<2>"]


def test_batches_are_filled_up_to_the_canvas(tmp_path: Path) -> None:
    found = table(tmp_path, sequence_length=8)
    data: Any = DatasetManager.load_dataset(found)["train"]
    alone, batch = (DatasetManager.collator(found, data)([data[i] for i in chosen]) for chosen in ([0], [1, 0, 2]))
    assert batch["input_ids"].tolist()[1] == [257, 49, 43, 49, 10, 50, 258, 258]
    assert torch.equal(batch["input_ids"][1:2], alone["input_ids"])
    assert batch["response_mask"].int().tolist()[1:] == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]
    assert bool(batch["attention_mask"].all())
    hidden = DatasetManager.collator(table(tmp_path, fill="hidden"), data)([data[0], data[2]])
    assert hidden["response_mask"].int().tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0]]
    assert hidden["attention_mask"].sum(1).tolist() == [7, 4]
    assert DatasetManager.collator(found, data, fill=False)([data[2]])["input_ids"].shape == (1, 4)


def test_row_that_ends_with_given_text_is_not_filled(tmp_path: Path) -> None:
    found = table(tmp_path, QUESTIONS[:1], template="{a:response}={q}", sequence_length=9)
    data: Any = DatasetManager.load_dataset(found)["train"]
    batch = DatasetManager.collator(found, data)([data[0]])
    assert batch["attention_mask"].sum() == 7
    assert batch["response_mask"].sum() == 1


def test_plain_rows_are_filled_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab\nc\n")
    settings = {"documents": "line", "rows": "whole", "fill": "end", "sequence_length": 6}
    found = text_config(tmp_path, {"train": "a.txt"}, **settings)
    data: Any = DatasetManager.load_dataset(found)["train"]
    batch = DatasetManager.collator(found, data)([data[1]])
    assert batch["input_ids"].tolist() == [[257, 99, 258, 258, 258, 258]]
    assert bool(batch["attention_mask"].all())
    assert "response_mask" not in batch


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rows": "packed"}, "a document with responses is one row, so rows cannot be packed"),
        ({"label": "q"}, "a row has a class to predict, or responses to write"),
        ({"messages": "m"}, "template and messages both make the text"),
        ({"chat": "plain"}, "chat is the format of messages, which are not set"),
        ({"template": None, "messages": "m", "chat": "template"}, "this one is of type bytes; write chat: plain"),
        ({"template": None, "pair": {"source": "q", "target": "{a:response}"}}, "in a pair the target is the response"),
        ({"template": None, "fill": "end"}, "fill is for whole documents, and rows are cut"),
        ({"template": None, "rows": "whole", "fill": "end"}, "filled up to sequence_length, which is not set"),
        ({"template": None, "pair": {"source": "q", "target": "a"}, "fill": "hidden"}, "fill is for rows of one text"),
        ({"fill": "end", "bucketing": True}, "filled rows have one length"),
    ],
)
def test_keys_that_contradict_responses(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=re.escape(message.split(";")[0])):
        table(tmp_path, **more)


def test_token_over_the_boundary_is_refused(tmp_path: Path) -> None:
    bpe = TokenizerConfig(type="bpe", vocab_size=300)
    data = [{"q": "why", "a": "because it is so"}] * 40
    with pytest.raises(
        DataError, match=re.escape("a.jsonl:1: a token reaches from the prompt into the response")
    ) as error:
        rows(table(tmp_path, data, template="{q}? {a:response}", tokenizer=bpe))
    assert "give the white space to the response, as in '{question} A:{ answer:response}'" in str(error.value)
    for more, end in (("{q}?{ a:response}", "?[ because"), ("{q}?\n{a:response}", "?\n[because")):
        found = table(tmp_path, data, template=more, tokenizer=bpe)
        assert end in rows(found)[0].replace("Ġ", " ")
    data[1] = {"q": "why", "a": "\n"}
    skipped = table(tmp_path, data, template="{q}?\n{a:response}", tokenizer=bpe, on_invalid="skip")
    assert len(rows(skipped)) == 39
    assert notes(skipped) == ["train: 1 skipped: invalid responses (a.jsonl:2)"]


def test_long_rows_keep_a_response_and_count_lost_ends(tmp_path: Path) -> None:
    data = [{"q": "ab", "a": "cdef"}, {"q": "abcdefgh", "a": "i"}, {"q": "a", "a": "bcd"}, {"q": "ab", "a": "cde"}]
    with pytest.raises(DataError, match=r"a\.jsonl:1: 9 tokens exceed sequence_length 8;"):
        rows(table(tmp_path, data, sequence_length=8))
    with pytest.raises(DataError, match="and the prompt alone leaves no place for a response"):
        rows(table(tmp_path, data[1:], sequence_length=8))
    cut = table(tmp_path, data, sequence_length=8, too_long="cut")
    assert rows(cut) == ["<1>ab\n[cdef]", "<1>a\n[bcd<2>]", "<1>ab\n[cde<2>]"]
    assert notes(cut) == [
        "train: 1 skipped: the end, and the end token, of documents with more than sequence_length 8 tokens (a.jsonl:1)",
        "train: 1 skipped: a prompt that leaves no place for a response in sequence_length 8 (a.jsonl:2)",
    ]
    skip = table(tmp_path, data, sequence_length=8, too_long="skip")
    assert rows(skip) == ["<1>a\n[bcd<2>]", "<1>ab\n[cde<2>]"]
    nothing = table(tmp_path, [{"q": "a", "a": ""}, data[0]], template="{a:response}{q}")
    assert rows(nothing) == ["<1>[cdef]ab<2>"]
    assert "train: 1 skipped: no token of a response (a.jsonl:1)" in notes(nothing)


def test_tokenizer_that_marks_the_beginning_of_a_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {
        word: number for number, word in enumerate(["<unk>", "▁why", "▁so", "▁", "so", "?", "\n", "▁?", "</s>", "<s>"])
    }
    inner = Tokenizer(models.Unigram([(word, -float(number)) for word, number in words.items()], unk_id=0))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", bos_token="<s>"
    ).save_pretrained(tmp_path / "tokenizer")
    kind = TokenizerConfig(type="hugging_face", path=str(tmp_path / "tokenizer"))
    data = [{"q": "why", "a": "so"}]
    found = table(tmp_path, data, template="{q}?\n{a:response}", tokenizer=kind)
    row = DatasetManager.load_dataset(found)["train"][0]  # "so" alone would be "▁so"
    assert row["input_ids"] == [words[word] for word in ("<s>", "▁why", "?", "\n", "so", "</s>")]
    assert row["response_mask"] == [False] * 4 + [True, True]
    spaced = table(tmp_path, data, template="{q}?{ a:response}", tokenizer=kind)
    row = DatasetManager.load_dataset(spaced)["train"][0]
    assert row["input_ids"] == [words[word] for word in ("<s>", "▁why", "?", "▁so", "</s>")]
    assert row["response_mask"] == [False] * 3 + [True, True]
    with pytest.raises(
        DataError, match="a token reaches from the prompt into the response, between 'why\\? ' and 'so'"
    ):
        rows(table(tmp_path, data, template="{q}? {a:response}", tokenizer=kind))


def test_mask_token_in_a_prompt_is_refused(tmp_path: Path) -> None:
    kind = chat_tokenizer(tmp_path, None, **CHATML_TOKENS).model_copy(update={"parse_special_tokens": True})
    with pytest.raises(DataError, match=r"a\.jsonl:2: holds the tokenizer's mask token"):
        rows(table(tmp_path, [QUESTIONS[0], {"q": "[M]", "a": "b"}], tokenizer=kind))


def test_source_columns_hold_the_text_of_responses(tmp_path: Path) -> None:
    found = table(tmp_path, sequence_length=7, too_long="cut")
    data: Any = DatasetManager.load_with_source(found, "train")
    assert [row["input_size"][:2] for row in data.rows] == [[1, 1], [2, 2], [0, 0]]
    cut = table(tmp_path, [{"q": "a", "a": "béc"}], sequence_length=5, too_long="cut")
    made: Any = DatasetManager.load_with_source(cut, "train")
    assert made.rows[0]["input_size"] == [1.5, 2, 0, 0, 1.5, 2]
    talk: Any = DatasetManager.load_with_source(talks(tmp_path, TALK), "train")
    assert talk.rows[0]["input_size"][:2] == [9, 9]
    kind = chat_tokenizer(tmp_path, CHATML, **CHATML_TOKENS)
    template: Any = DatasetManager.load_with_source(talks(tmp_path, TALK, tokenizer=kind), "train")
    assert template.rows[0]["input_size"][:2] == [11, 11]  # its marks are no text


def test_report_marks_responses(tmp_path: Path) -> None:
    from data_manager.report import describe

    found = talks(tmp_path, TALK, sequence_length=99)
    [split] = describe(found, DatasetManager.load_dataset(found)).splits
    assert split.examples == [
        "<system>\nBe kind.\n<user>\nHi\n<assistant>\n>>Hello<<\n<user>\nBye\n<assistant>\n>>Ciao<<"
    ]
    assert split.hints == (
        "text follows a response, so a diffusion model is given its length",
        "batches are filled with end tokens up to 99, which are learnt; a decoder reads the rows as they are",
    )
    lengths = split.lengths["responses"]
    assert lengths is not None
    assert lengths.mean == 11
    plain = table(tmp_path, template="{a:response}", fill="hidden")
    [split] = describe(plain, DatasetManager.load_dataset(plain)).splits
    assert split.examples == [">>2<<", ">>ja<<"]
    assert split.hints == ()


def test_stream_gives_the_rows_of_a_table(tmp_path: Path) -> None:
    import datasets

    from data_manager.rows.prepare import prepare_split
    from data_manager.rows.stream import stream_rows
    from data_manager.rows.token_stream import TokenStream
    from data_manager.text.corpora import table_corpora

    found = table(tmp_path)
    corpus, tokenizer = table_corpora(found)["train"], DatasetManager.tokenizer(found)
    assert tokenizer is not None
    expected = [dict(row) for row in prepare_split(found, "train", corpus, tokenizer).rows]
    assert [dict(row) for row in stream_rows(found, "train", corpus, tokenizer)] == expected
    stream = TokenStream(found, "train", [corpus], tokenizer, False)
    assert [dict(row) for row in stream.head()] == expected
    assert isinstance(stream.head(), datasets.Dataset)


def test_shards_hold_the_mask_and_their_keys(tmp_path: Path) -> None:
    from data_manager.rows.shards import open_shards, write_shards

    found = table(tmp_path)
    tokenizer: Any = DatasetManager.tokenizer(found)
    data: Any = DatasetManager.load_dataset(found)
    write_shards(tmp_path / "shards", found, data, tokenizer)
    again: Any = open_shards(found.model_copy(update={"shards": str(tmp_path / "shards"), "fill": "hidden"}))["train"]
    assert [{name: list(value) for name, value in row.items()} for row in again] == [dict(row) for row in data["train"]]
    batches = [DatasetManager.collator(found, rows)([rows[0], rows[2]]) for rows in (again, data["train"])]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    assert again.head(1)[0]["response_mask"] == data["train"][0]["response_mask"]
    other = table(tmp_path, template="{q}\n{a}", rows="whole", shards=str(tmp_path / "shards"))
    with pytest.raises(DataError, match=r"was written from other settings:\n  rows: .*\n  template:"):
        open_shards(other)


def test_mixture_of_rows_with_responses(tmp_path: Path) -> None:
    one = table(tmp_path, QUESTIONS[:1])
    two = talks(tmp_path, TALK).model_copy(update={"name": "talks", "data_files": {"train": "b.jsonl"}})
    (tmp_path / "b.jsonl").write_text(json.dumps({"m": TALK}) + "\n")
    one = table(tmp_path, QUESTIONS[:1])
    settings: dict[str, Any] = {"name": "both", "tokenizer": BYTES, "global_config": shared(tmp_path)}
    mixed = MixtureDatasetConfig(datasets={"tiny": 1, "talks": 1}, entries=(one, two), stop="all_exhausted", **settings)
    assert mixed.is_filled
    assert mixed.limit == 256
    assert set(rows(mixed)) == {*rows(one), *rows(two)}
    plain = table(tmp_path, template="{q}", name="plain")
    with pytest.raises(ValidationError, match="'plain' and 'tiny' cannot be mixed: only one of them has responses"):
        MixtureDatasetConfig(datasets={"tiny": 1, "plain": 1}, entries=(one, plain), **settings)
