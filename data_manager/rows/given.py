"""Encode what is given to a model of rows with responses: the tokens of a row before its last response.

The row is made as those of the training data, with a letter in place of the response, so a prompt has the same tokens.
"""

from collections.abc import Mapping
from typing import Any

from data_manager.documents import Invalid, Notes, Piece
from data_manager.errors import DataError
from data_manager.rows.encode import EncodeSides
from data_manager.rows.responses import written_conversations
from data_manager.text.chat import ASSISTANT
from data_manager.text.table_types import ColumnsConfig
from data_manager.text.tables import messages_of, read_pieces
from data_manager.text.template import parse_template
from data_manager.tokenizers.base import Tokenizer
from model_factory.yaml_config.schema_version import parse_json

PLACE = "prompt"
_RESPONSES = "aehinorstw"
"""Letters in place of the response; a tokenizer may join some of them to the text before."""


def given_columns(config: ColumnsConfig) -> list[str]:
    """Return the columns that a prompt has: all but that of the last response."""
    if config.messages is not None:
        return [config.messages]
    template = parse_template(config.templates[0])
    return [".".join(path) for path in dict.fromkeys(template.fields) if path != template.fields[-1]]


def encode_given(config: ColumnsConfig, tokenizer: Tokenizer, row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a row before its last response, the begin token first.

    `row` has the columns of the data set but that of the last response; messages end with one to answer. Raises DataError
    for a missing column, and for a prompt that the tokenizer joins to the response.
    """
    if config.messages is None and not parse_template(config.templates[0]).ends_with_response:
        raise DataError("the template of the run has text after the response, so the run did not learn where one ends")
    problem = ""
    for letter in _RESPONSES:
        piece = _piece(config, tokenizer, _with_response(config, row, letter))
        sides = EncodeSides(tokenizer)([piece])
        assert sides.responses is not None
        problem = sides.responses.problems.get(0, "")
        if not problem:
            ids, marks = sides.flat[0][0].tolist(), sides.responses.marks.tolist()
            first = len(marks) - marks[::-1].index(True)  # the end of the last run of a response
            while first and marks[first - 1]:
                first -= 1
            return [tokenizer.bos_token_id, *ids[:first]]
    raise DataError(problem)


def _with_response(config: ColumnsConfig, row: Mapping[str, Any], response: str) -> dict[str, Any]:
    """Return the row with a response."""
    if config.messages is not None:
        messages = row.get(config.messages)
        if isinstance(messages, str):  # in CSV files
            messages = _parse(messages)
        if not isinstance(messages, list):
            raise DataError(f"there is no list of messages in the column {config.messages!r}")
        return {**row, config.messages: [*messages, {"role": ASSISTANT, "content": response}]}
    path = parse_template(config.templates[0]).fields[-1]
    found: dict[str, Any] = dict(row)
    inner = found
    for key in path[:-1]:
        inner[key] = dict(inner.get(key) or {})
        inner = inner[key]
    inner[path[-1]] = response
    return found


def _parse(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None


def _piece(config: ColumnsConfig, tokenizer: Tokenizer, row: Mapping[str, Any]) -> Piece:
    """Return the document of a row."""
    invalid, templates = Invalid(False, Notes()), [parse_template(text) for text in config.templates]
    pieces = read_pieces(iter([(1, row)]), templates, PLACE, invalid, messages=messages_of(config))
    return next(written_conversations(pieces, tokenizer, invalid))
