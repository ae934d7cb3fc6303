"""Options of generation, checked before anything is computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real

import torch

from model.inputs import InputError


@dataclass(frozen=True)
class GenerationOptions:
    """Arguments of `generate` beside the prompt; raises InputError for a value out of range."""

    max_new_tokens: int
    """Maximal number of tokens after the prompt; fewer if every row has ended."""
    temperature: float = 1.0
    """Divisor of the logits before a token is sampled; 0.0 takes the most likely token."""
    top_k: int | None = None
    """Sample from the k most likely tokens alone (Fan et al. 2018, arXiv 1805.04833)."""
    top_p: float | None = None
    """Sample from the most likely tokens of this total probability (Holtzman et al. 2020, arXiv 1904.09751)."""
    num_beams: int = 1
    """With 2 or more: the best continuation that beam search finds, without sampling."""
    eos_token: int | None = None
    """A row ends with this token."""
    pad_token: int | None = None
    """Padding after the end of a row; None: eos_token."""
    length_penalty: float = 0.0
    """Beam search ranks by log-probability / length ** length_penalty; 0.0: by the log-probability itself."""
    generator: torch.Generator | None = None
    """Random generator; None: torch's global one."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(problem)

    @property
    def padding(self) -> int:
        """Padding after the end of a row."""
        return (self.eos_token or 0) if self.pad_token is None else self.pad_token

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InputError for a token that is not among the ids 0..vocab_size-1."""
        for name, token in (("eos_token", self.eos_token), ("pad_token", self.pad_token)):
            if token is not None and not (_is_int(token) and 0 <= token < vocab_size):
                raise InputError(f"{name} must be a token id, an integer from 0 to {vocab_size - 1}; got {token!r}")

    def _problems(self) -> Iterator[str]:
        for name in ("max_new_tokens", "num_beams", "top_k"):
            value = getattr(self, name)
            if not (_is_int(value) and value >= 1) and not (name == "top_k" and value is None):
                yield f"{name} must be an integer of at least 1; got {value!r}"
        if not _is_number(self.temperature) or self.temperature < 0:
            yield f"temperature must be a number of at least 0.0 (0.0 is greedy); got {self.temperature!r}"
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            yield f"top_p must be a probability above 0.0 and up to 1.0; got {self.top_p!r}"
        if not _is_number(self.length_penalty):
            yield f"length_penalty must be a number; got {self.length_penalty!r}"
        yield from self._clashes()

    def _clashes(self) -> Iterator[str]:
        if self.num_beams == 1 and self.length_penalty:
            yield f"length_penalty {self.length_penalty} ranks beams, and num_beams is 1; set num_beams to 2 or more"
        if self.num_beams > 1:
            for name in ("top_k", "top_p"):
                if getattr(self, name) is not None:
                    yield f"{name} needs sampling, and beam search (num_beams {self.num_beams}) has none; leave it out"
            if self.temperature not in (0.0, 1.0):
                yield (
                    f"temperature {self.temperature} needs sampling, and beam search (num_beams {self.num_beams}) "
                    "has none; leave it out"
                )


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
