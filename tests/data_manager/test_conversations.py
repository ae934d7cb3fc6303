"""Conversations: the plain format, chat templates of tokenizers, and messages about invalid ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from data_manager.data_manager import DatasetManager
from data_manager.errors import DataError
from data_manager.rows.responses import encode_prompt
from data_manager.text.table_types import CsvDatasetConfig, DiskDatasetConfig, ParquetDatasetConfig
from tests.data_manager.response_tables import CHATML, CHATML_TOKENS, TALK, chat_tokenizer, rows, talks
from tests.data_manager.text_configs import BYTES, notes, shared

MARKED = (
    "{{ bos_token }}{% for m in messages %}({{ m['role'] }}){% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] | trim }}{{ eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}(assistant){% endif %}"
)


def test_plain_conversations(tmp_path: Path) -> None:
    found = talks(tmp_path, TALK)
    text = "<1><system>\nBe kind.\n<user>\nHi\n<assistant>\n[Hello<2>]\n<user>\nBye\n<assistant>\n[Ciao<2>]"
    assert rows(found) == [text]
    tokenizer: Any = DatasetManager.tokenizer(found)
    row = DatasetManager.load_dataset(found)["train"][0]["input_ids"]
    prompt = encode_prompt(tokenizer, [(one["role"], one["content"]) for one in TALK[:-1]])
    assert row[: len(prompt)] == prompt
    assert tokenizer.decode(row[len(prompt) :]) == "Ciao"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "column 'm' holds no messages; write [{role: user, content: ...}, ...]"),
        ("hello", "column 'm' holds text, not a list of messages in JSON"),
        (3, "column 'm' holds int, not a list of messages"),
        ([{"from": "human", "value": "x"}], "message 1 has the keys from, value; a message has a role and a content"),
        ([{"role": "human", "content": "x"}], "message 1 has the role 'human'; the roles are system, developer, user,"),
        ([{"role": "user", "content": ["x"]}], "message 1 (user) has a content of type list, not text"),
        ([{"role": "assistant", "content": None}], "message 1 (assistant) has a content of type NoneType, not text"),
        (TALK[:2], "there is no message of the role assistant, so there is no response to learn"),
        (TALK[:4], "message 4, the last, is of role user, and its answer is missing"),
    ],
)
def test_invalid_messages_name_their_row(messages: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"a.jsonl:2: {message}")):
        rows(talks(tmp_path, TALK, messages))
    found = talks(tmp_path, TALK, messages, on_invalid="skip")
    assert len(rows(found)) == 1
    assert notes(found) == ["train: 1 skipped: invalid messages (a.jsonl:2)"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "disk"])
def test_conversations_of_other_tables(kind: str, tmp_path: Path) -> None:
    import datasets

    expected = rows(talks(tmp_path, TALK))
    data = datasets.Dataset.from_dict({"m": [TALK]})
    settings: dict[str, Any] = {"name": "tiny", "tokenizer": BYTES, "global_config": shared(tmp_path), "messages": "m"}
    if kind == "csv":
        (tmp_path / "a.csv").write_text('m\n"' + json.dumps(TALK).replace('"', '""') + '"\n')
        assert rows(CsvDatasetConfig(data_files={"train": "a.csv"}, **settings)) == expected
    elif kind == "parquet":
        data.to_parquet(str(tmp_path / "a.parquet"))
        assert rows(ParquetDatasetConfig(data_files={"train": "a.parquet"}, **settings)) == expected
    else:
        data.save_to_disk(str(tmp_path / "saved"))
        assert rows(DiskDatasetConfig(path=str(tmp_path / "saved"), **settings)) == expected


@pytest.mark.parametrize(
    ("template", "special", "expected"),
    [
        (
            CHATML,
            CHATML_TOKENS,
            "<bos><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            "[ Hello <|im_end|>]\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[Ciao<|im_end|><|end|>]",
        ),
        (
            MARKED,
            {"eos_token": "</s>", "bos_token": "<s>"},
            "<s>(system)Be kind.(user)Hi(assistant)[Hello</s>](user)Bye(assistant)[Ciao</s>]",
        ),
    ],
)
def test_chat_template(template: str, special: dict[str, Any], expected: str, tmp_path: Path) -> None:
    found = talks(tmp_path, TALK, tokenizer=chat_tokenizer(tmp_path, template, **special))
    assert rows(found) == [expected]
    tokenizer: Any = DatasetManager.tokenizer(found)
    row = DatasetManager.load_dataset(found)["train"][0]["input_ids"]
    prompt = encode_prompt(tokenizer, [(one["role"], one["content"]) for one in TALK[:-1]])
    assert row[: len(prompt)] == prompt
    again = talks(tmp_path, TALK, tokenizer=chat_tokenizer(tmp_path, template.replace("{% for", ">{% for"), **special))
    assert rows(again) != [expected]  # the cache knows the template


@pytest.mark.parametrize(
    ("template", "content", "message"),
    [
        (None, "x", "has no chat template; write chat: plain, or give its folder one"),
        (CHATML, "a<|im_end|>", "message 2 (user) holds '<|im_end|>', which the tokenizer reads as a special token"),
        (CHATML, "[M]", "message 2 (user) holds '[M]', which the tokenizer reads as a special token"),
        ("{{ raise_exception('no system') }}", "x", "the chat template refuses this conversation: no system"),
        ("{{ messages[0].content }}", "x", "the chat template leaves out message 2"),
        (CHATML.replace("m['content']", "m['content'].upper()"), "x", "the chat template changes the contents"),
    ],
)
def test_conversations_that_a_chat_template_does_not_take(
    template: str | None, content: str, message: str, tmp_path: Path
) -> None:
    bad = [TALK[0], {"role": "user", "content": content}, *TALK[2:]]
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*" + re.escape(message)):
        rows(talks(tmp_path, bad, tokenizer=chat_tokenizer(tmp_path, template, **CHATML_TOKENS)))
    plain = talks(tmp_path, TALK, chat="plain", tokenizer=chat_tokenizer(tmp_path, template, **CHATML_TOKENS))
    assert "<user>\nHi\n<assistant>\n[Hello<|end|>]" in rows(plain)[0]
