"""Errors that name an argument, the value given and the values expected, and checks that raise them.

A check of numbers on an accelerator makes the host wait for it. Inside `gathered_checks` it does not: what was wrong is
found at the end, in one read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class DiffusionInputError(ValueError):
    """Argument outside its domain; `argument`, `given` and `expected` are attributes."""

    def __init__(self, argument: str, given: object, expected: str) -> None:
        self.argument, self.given, self.expected = argument, given, expected
        super().__init__(f"{argument}: got {given}; expected {expected}")


class TokenError(DiffusionInputError):
    """Token id outside the vocabulary of the process."""


class SigmaError(DiffusionInputError):
    """Noise level that is negative, infinite or NaN."""


class TimeError(DiffusionInputError):
    """Time outside its interval."""


class LengthError(DiffusionInputError):
    """Prompt or mask that does not fit the sequence."""


class ShapeError(DiffusionInputError):
    """Tensor of the wrong shape or dtype."""


class SettingError(DiffusionInputError):
    """Invalid setting of a process, schedule, objective or sampler."""


class ProbabilityError(DiffusionInputError):
    """Weights that form no distribution: negative, infinite, NaN, or all zero."""


Checked = dict[tuple[type[DiffusionInputError], str, str], Tensor]
_gathered: ContextVar[Checked | None] = ContextVar("gathered", default=None)
"""For each kind of error, argument and expectation, True on the device if a check has failed; None outside of a block."""


@contextmanager
def gathered_checks() -> Iterator[None]:
    """Make the checks of numbers on an accelerator at the end of the block, where one of their errors is raised.

    Checks of the CPU's numbers are made at once. After another error in the block nothing is read.
    """
    found: Checked = {}
    token = _gathered.set(found)
    try:
        yield
    finally:
        _gathered.reset(token)
    if found:
        failed = torch.stack(list(found.values())).tolist()
        for (kind, argument, expected), is_wrong in zip(found, failed, strict=True):
            if is_wrong:
                raise kind(argument, "another one during the calculation on the device", expected)


def raise_if(
    wrong: Tensor, kind: type[DiffusionInputError], argument: str, given: Callable[[], object], expected: str
) -> None:
    """Raise an error of this kind if `wrong`, bool of any shape, is True anywhere; `given` returns the wrong value."""
    found = _gathered.get()
    if found is None or wrong.device.type == "cpu":
        if bool(wrong.any()):
            raise kind(argument, given(), expected)
        return
    key = (kind, argument, expected)
    found[key] = found[key] | wrong.any() if key in found else wrong.any()


def check_integers(argument: str, tokens: Tensor) -> None:
    """Raise ShapeError unless `tokens` is a tensor of integers, of any shape."""
    if not isinstance(tokens, Tensor):
        raise ShapeError(argument, f"a {type(tokens).__name__}", "a tensor of integer token ids")
    if tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
        raise ShapeError(argument, f"dtype {tokens.dtype}", "integer token ids")


def check_tokens(argument: str, tokens: Tensor, limit: int) -> None:
    """Raise ShapeError unless `tokens` are integers, TokenError unless 0 <= tokens < limit; of any shape."""
    check_integers(argument, tokens)
    if tokens.numel() == 0:
        return
    low, high = torch.aminmax(tokens)

    def outside() -> str:
        return f"token {int(low) if int(low) < 0 else int(high)}"

    raise_if((low < 0) | (high >= limit), TokenError, argument, outside, f"ids from 0 to {limit - 1}")


def check_sigma(argument: str, sigma: Tensor | float) -> Tensor:
    """Return the noise level as float64 of its shape; raise SigmaError unless it is finite and not negative."""
    values = torch.as_tensor(sigma, dtype=torch.float64)
    wrong = ~(torch.isfinite(values) & (values >= 0))
    raise_if(wrong, SigmaError, argument, lambda: float(values[wrong].flatten()[0]), "a finite number, 0 or more")
    return values


def check_time(argument: str, t: Tensor | float, *, allow_zero: bool = False) -> Tensor:
    """Return the time as float64 of its shape; raise TimeError unless in (0, 1], or [0, 1] with `allow_zero`."""
    values = torch.as_tensor(t, dtype=torch.float64)
    above = values >= 0 if allow_zero else values > 0
    wrong = ~(above & (values <= 1))
    expected = f"a time in {'[0, 1]' if allow_zero else '(0, 1]'}"
    raise_if(wrong, TimeError, argument, lambda: float(values[wrong].flatten()[0]), expected)
    return values


def check_number(argument: str, value: float, low: float, high: float, *, low_open: bool = False) -> float:
    """Return a number in [low, high], or (low, high] with `low_open`, as a float; raise SettingError otherwise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (low < value if low_open else low <= value) or not value <= high:  # NaN fails every comparison
        raise SettingError(argument, repr(value), f"a number in {'(' if low_open else '['}{low:g}, {high:g}]")
    return float(value)


def check_count(argument: str, value: int) -> int:
    """Return an int of 1 or more; raise SettingError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingError(argument, repr(value), "a whole number, 1 or more")
    return value


def check_entries(argument: str, values: Tensor, tokens: Tensor, dim: int) -> None:
    """Raise ShapeError unless `values` is [..., dim] for tokens of shape [...]."""
    if values.shape != (*tokens.shape, dim):
        raise ShapeError(argument, f"shape {list(values.shape)}", f"{[*tokens.shape, dim]}, dim entries a token")
