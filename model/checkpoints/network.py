"""A published network as one of ours: the section that builds it, and the map of its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Change = Callable[..., Tensor]
"""Function of one or several tensors of theirs that gives ours."""
_FEW = 5


class Part(NamedTuple):
    """Origin of one of our tensors: the names of theirs, and how ours is made of them (None: it is theirs)."""

    names: tuple[str, ...]
    change: Change | None = None

    def make(self, read: Callable[[str], Tensor]) -> Tensor:
        """Return our tensor, of any shape; `read` returns theirs by name."""
        tensors = [read(name) for name in self.names]
        return tensors[0] if self.change is None else self.change(*tensors)

    def shape(self, shape_of: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape of our tensor, without memory for it; raise RuntimeError if theirs do not fit each other."""
        return tuple(self.make(lambda name: torch.empty(shape_of(name), device="meta")).shape)


@dataclass(frozen=True)
class Network:
    """A published network as one of ours.

    Fields:
        family: its family.
        section: the section `model` of a file that builds it.
        tensors: for each tensor of ours, the names of theirs and how it is made of them.
        order: names of their trained tensors in the order of `parameters()`, as lists of averages have it.
        facts: what was understood, pairs of a name and a text; notes: what a user should know.
    """

    family: str
    section: dict[str, Any]
    tensors: dict[str, Part]
    order: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def vocabulary_of(section: Mapping[str, Any]) -> int:
    """Return the number of data tokens that a section `model` states."""
    owner = section if section["model_type"] == "diffusion" else section[section["model_type"]]
    found: int = owner["vocab_size"]
    return found


def shorten(names: list[str]) -> str:
    """Join the first names of a list, and say how many more there are."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
