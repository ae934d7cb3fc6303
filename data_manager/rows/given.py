"""Encode what is given to a model of rows with responses: the tokens of a row before its last response.

A prompt has the same tokens as in a row of the training data, which is made of it with a letter in place of the response.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data_manager.documents import Invalid, Notes
from data_manager.errors import DataError
from data_manager.rows.encode import EncodeSides
from data_manager.rows.responses import encode_prompt
from data_manager.text.chat import ASSISTANT, read_messages
from data_manager.text.table_types import ColumnsConfig
from data_manager.text.tables import read_pieces
from data_manager.text.template import Template, parse_template
from data_manager.tokenizers.base import Tokenizer
from model_factory.yaml_config.schema_version import parse_json

PLACE = "prompt"
_LETTERS = "aehinorstw"
"""Letters in place of the response; a tokenizer may join some of them to the text before."""


def given_columns(config: ColumnsConfig) -> list[str]:
    """Return the columns that a prompt has: all but that of the last response."""
    if config.messages is not None:
        return [config.messages]
    template = parse_template(config.templates[0])
    return [".".join(path) for path in dict.fromkeys(template.fields) if path != template.fields[-1]]


def encode_given(config: ColumnsConfig, tokenizer: Tokenizer, row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a row before its last response, the begin token first.

    `row` has the columns of the data set but that of the last response; its messages are those before the response. Raises
    DataError for a missing column, invalid messages, and a prompt that the tokenizer joins to any response.
    """
    if config.messages is not None:
        return _encode_messages(config, tokenizer, row.get(config.messages))
    template = parse_template(config.templates[0])
    if not template.ends_with_response:
        raise DataError("the template of the run has text after the response, so the run did not learn where one ends")
    problem = ""
    for letter in _LETTERS:
        found = _with_response(template, row, letter)
        piece = next(read_pieces(iter([(1, found)]), [template], PLACE, Invalid(False, Notes())))
        sides = EncodeSides(tokenizer)([piece])
        assert sides.responses is not None
        problem = sides.responses.problems.get(0, "")
        if not problem:
            return [tokenizer.bos_token_id, *_before_last(sides.flat[0][0].tolist(), sides.responses.marks.tolist())]
    raise DataError(problem)


def _encode_messages(config: ColumnsConfig, tokenizer: Tokenizer, messages: Any) -> list[int]:
    """Return the tokens of messages up to the assistant's next one."""
    assert config.messages is not None
    if isinstance(messages, str):  # in CSV files
        try:
            messages = parse_json(messages)
        except ValueError:
            messages = None
    if not isinstance(messages, list):
        raise DataError(f"there is no list of messages in the column {config.messages!r}")
    try:
        known = read_messages([*messages, {"role": ASSISTANT, "content": ""}], config.messages)
        return encode_prompt(tokenizer, known[:-1], config.chat)
    except ValueError as error:
        raise DataError(str(error)) from error


def _with_response(template: Template, row: Mapping[str, Any], response: str) -> dict[str, Any]:
    """Return the row with a response in the last column of the template."""
    path = template.fields[-1]
    found: dict[str, Any] = dict(row)
    inner = found
    for key in path[:-1]:
        inner[key] = dict(inner.get(key) or {})
        inner = inner[key]
    inner[path[-1]] = response
    return found


def _before_last(ids: Sequence[int], marks: Sequence[bool]) -> list[int]:
    """Return the tokens before the last run of marked ones."""
    first = len(marks) - marks[::-1].index(True)  # the end of the run
    while first and marks[first - 1]:
        first -= 1
    return list(ids[:first])
