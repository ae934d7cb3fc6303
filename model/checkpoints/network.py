"""A published network as one of ours: the section that builds it, and the map of its tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""Function of a tensor of theirs that gives ours."""
_FEW = 5


@dataclass(frozen=True)
class Network:
    """A published network as one of ours.

    Fields:
        family: its family.
        section: the section `model` of a file that builds it.
        tensors: for each tensor of ours, the name of theirs and how it is changed.
        order: names of their trained tensors in the order of `parameters()`, as lists of averages have it.
        facts: what was understood, pairs of a name and a text; notes: what a user should know.
    """

    family: str
    section: dict[str, Any]
    tensors: dict[str, tuple[str, Change | None]]
    order: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def shorten(names: list[str]) -> str:
    """Join the first names of a list, and say how many more there are."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
