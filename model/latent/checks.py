"""Checks of token ids and lengths for Hugging Face networks; an index out of range kills the process on CUDA."""

from typing import Any

from torch import Tensor

from model.transformer.inputs import InputError, describe, has_values, is_integer

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Architectures whose positions begin after the padding id."""


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise InputError for ids that are not int, of any shape, and for one outside the vocabulary."""
    if not is_integer(ids):
        raise InputError(f"token ids must be int; got {describe(ids)}")
    if not has_values(ids) or not ids.numel():
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is out of range: vocab_size is {vocab_size}, ids start at 0")


def check_length(length: int, max_length: int | None, part: str) -> None:
    """Raise InputError for texts with more tokens than `part`, the encoder or the decoder, has positions for."""
    if max_length is not None and length > max_length:
        raise InputError(
            f"texts have {length} tokens, and the {part} has {max_length} positions; truncate them, or drop longer ones"
        )


def max_positions_of(config: Any) -> int | None:
    """Return the number of positions of a Hugging Face model; None without a limit."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    return positions
