"""The given part of a row, for runs whose rows have one: what stands before the response that the model writes.

A run on rows of `infill` fills a hole of unknown length, `The [[*]] the end.`, or of a known one.
"""

from typing import Any

from data_manager.text.infill import given_ids
from data_manager.tokenizers.base import Tokenizer
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.prompt import (
    OPEN,
    Given,
    PromptError,
    Template,
    refuse_lone_surrogates,
    split_at_holes,
)


def has_given(run: LoadedRun) -> bool:
    """Return True if the rows of a run have a given part and a response."""
    return getattr(run.dataset_config, "infill", None) is not None


def read_given(run: LoadedRun, value: Any) -> Given | None:
    """Encode what is given to a run; None for a run whose rows have no given part.

    Raises PromptError for a value that does not fit the rows of the run.
    """
    if not has_given(run):
        return None
    return _read_hole("" if value is None else str(value), run.require_tokenizer())


def _read_hole(prompt: str, tokenizer: Tokenizer) -> Given:
    """Parse a prompt with at most one hole; without one the text continues at its end."""
    refuse_lone_surrogates(prompt)
    parts = split_at_holes(prompt)
    holes = parts[1::2]
    if len(holes) > 1:
        raise PromptError("the prompt has several holes, and this run was trained to fill one at a time; leave one [[*]]")
    if "" in holes:
        raise PromptError("[[]] takes the rest of a sample, and a row of this run ends after its hole; write [[*]]")
    prefix, suffix = parts[0], parts[-1] if holes else ""
    ids = [tokenizer.encode(text) if text else [] for text in (prefix, suffix)]
    return Given(given_ids(tokenizer.bos_token_id, *ids), prefix, suffix, None if holes in ([], [OPEN]) else int(holes[0]))


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
