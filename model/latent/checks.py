"""Token ids and lengths that a network of Hugging Face can read; a lookup out of range kills a process on CUDA."""

from typing import Any

from torch import Tensor

from model.inputs import InputError, has_values

BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Architectures whose positions begin behind the id of padding."""


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise InputError for a token id outside the vocabulary; ids are int of any shape."""
    if not has_values(ids) or not ids.numel():
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is out of range: vocab_size is {vocab_size}, ids start at 0")


def check_length(length: int, longest: int | None, who: str) -> None:
    """Raise InputError for texts of more tokens than `who` has places for."""
    if longest is not None and length > longest:
        raise InputError(
            f"texts have {length} tokens, and the {who} reads {longest}; cut them, or leave longer ones out"
        )


def places_of(config: Any) -> int | None:
    """Tokens that a model of Hugging Face has positions for; None without a limit."""
    places: int | None = getattr(config, "max_position_embeddings", None)
    if places is not None and config.model_type in BEHIND_PADDING:
        places -= (config.pad_token_id or 0) + 1
    return places
