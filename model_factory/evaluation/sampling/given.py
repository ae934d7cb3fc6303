"""The given part of a row, for runs whose rows have one: what stands before the response that the model writes.

A run on rows with responses answers a question: a text, or the columns of its template. A run on messages answers the last
message. A run on rows of `infill` fills a hole of unknown length, `The [[*]] the end.`, or of at most N tokens, `[[N]]`.
"""

import json
from collections.abc import Mapping
from typing import Any

from data_manager.errors import DataError
from data_manager.rows.given import PLACE, encode_given, given_columns
from data_manager.text.infill import given_ids
from data_manager.text.table_types import ColumnsConfig
from data_manager.tokenizers.base import Tokenizer
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.prompt import (
    OPEN,
    Given,
    PromptError,
    Template,
    refuse_lone_surrogates,
    split_at_holes,
    texts_around_holes,
)
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.schema_version import parse_json


def has_given(run: LoadedRun) -> bool:
    """Return True if the rows of a run have a given part and a response."""
    return has_holes(run) or has_responses(run)


def has_holes(run: LoadedRun) -> bool:
    """Return True if the rows of a run have a hole, which is their response."""
    return getattr(run.dataset_config, "infill", None) is not None


def has_responses(run: LoadedRun) -> bool:
    """Return True if the rows of a run have responses to a text that is always given."""
    return not has_holes(run) and getattr(run.dataset_config, "has_responses", False)


def read_given(run: LoadedRun, value: Any) -> Given | None:
    """Encode what is given to a run: a text, the columns of a row, or messages; None for a run whose rows have no given part.

    Raises PromptError for a value that does not fit the rows of the run, UnfitError for a run on rows of a custom source.
    """
    if has_holes(run):
        return _read_hole("" if value is None else str(value), run.require_tokenizer())
    if not has_responses(run):
        return None
    config = columns_of(run)
    row = _as_row(run, config, value)
    refuse_lone_surrogates(json.dumps(row, ensure_ascii=False, default=str))
    try:
        return Given(encode_given(config, run.require_tokenizer(), row))
    except DataError as error:
        raise PromptError(str(error).removeprefix(f"{PLACE}:1: ")) from error


def prompt_texts(run: LoadedRun, value: Any) -> list[str]:
    """Return the texts of a prompt: those around its holes, or those of its columns."""
    if has_responses(run):
        config = columns_of(run)
        if config.messages is not None:
            return [value] if isinstance(value, str) else []
        return [text for text in _as_row(run, config, value).values() if isinstance(text, str)]
    is_diffusion = run.task_name == "diffusion"
    return texts_around_holes(value) if is_diffusion or has_holes(run) else [value]


def columns_of(run: LoadedRun) -> ColumnsConfig:
    """Return the config that says how rows are made of columns; that of the first part of a mixture."""
    config: Any = run.dataset_config
    for one in (config, *getattr(config, "entries", ())):
        if isinstance(one, ColumnsConfig) and one.names_responses:
            return one
    raise UnfitError(
        f"{run.folder}: prompts are made of the columns of tables, and this run was trained on {config.source}"
    )


def _as_row(run: LoadedRun, config: ColumnsConfig, value: Any) -> Mapping[str, Any]:
    """Return the columns of a prompt: a text is the only column that is given, or a JSON object of several."""
    columns = given_columns(config)
    if isinstance(value, Mapping):
        return value
    if config.messages is not None and isinstance(value, list):
        return {config.messages: value}
    if value is None and columns:
        raise PromptError(f"{run.folder} writes responses, and needs a text to respond to: --prompt TEXT")
    if config.messages is not None:
        return {config.messages: [{"role": "user", "content": value}]}
    if value is not None and not columns:
        raise PromptError("the template of this run gives no column to a prompt; leave the prompt out")
    if len(columns) < 2:
        return dict.fromkeys(columns, value)
    try:
        row = parse_json(value)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        shown = json.dumps(dict.fromkeys(columns, "..."))
        raise PromptError(
            f"the rows of this run have the columns {', '.join(columns)}; give them as a JSON object: {shown}"
        )
    return row


def _read_hole(prompt: str, tokenizer: Tokenizer) -> Given:
    """Parse a prompt with at most one hole; without one the text continues at its end."""
    refuse_lone_surrogates(prompt)
    parts = split_at_holes(prompt)
    holes = parts[1::2]
    if len(holes) > 1:
        raise PromptError(
            "the prompt has several holes, and this run was trained to fill one at a time; leave one [[*]]"
        )
    if "" in holes:
        raise PromptError("[[]] takes the rest of a sample, and a row of this run ends after its hole; write [[*]]")
    prefix, suffix = parts[0], parts[-1] if holes else ""
    ids = [tokenizer.encode(text) if text else [] for text in (prefix, suffix)]
    given = [tokenizer.bos_token_id, *given_ids(tokenizer.bos_token_id, *ids)]
    return Given(given, prefix, suffix, None if holes in ([], [OPEN]) else int(holes[0]))


def place_given(given: Given, length: int, end: int) -> Template:
    """Place what is given at the start of a sample of `length` tokens, whose response is filled up with the token `end`.

    Raises PromptError where no position is left for the response.
    """
    first = len(given.ids)
    needed = first + 1 + (given.size or 0)
    if needed > length:
        raise PromptError(
            f"the prompt takes {first:,} tokens, and a row of this run has {length:,} with its response and its end; "
            "shorten the prompt"
        )
    rest = length - first
    tokens, kept = [0] * rest, [False] * rest
    if given.size is not None:
        tokens[given.size :] = [end] * (rest - given.size)
        kept[given.size :] = [True] * (rest - given.size)
    return Template([*given.ids, *tokens], [True] * first + kept, given)
