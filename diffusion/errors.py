"""What is wrong with an argument, said with its name, what was given and what fits."""

import torch
from torch import Tensor


class DiffusionInputError(ValueError):
    """An argument outside its domain; `argument`, `given` and `expected` are kept as fields."""

    def __init__(self, argument: str, given: object, expected: str) -> None:
        self.argument, self.given, self.expected = argument, given, expected
        super().__init__(f"{argument}: got {given}; expected {expected}")


class TokenError(DiffusionInputError):
    """A token id outside the vocabulary of the process."""


class SigmaError(DiffusionInputError):
    """A noise level that is negative, infinite or not a number."""


class TimeError(DiffusionInputError):
    """A time outside its interval."""


class LengthError(DiffusionInputError):
    """A prompt or a mask that does not fit the sequence."""


class ShapeError(DiffusionInputError):
    """A tensor of the wrong shape or type."""


class SettingError(DiffusionInputError):
    """A setting of a process, a schedule or a sampler that cannot work."""


class ProbabilityError(DiffusionInputError):
    """Weights that are no distribution: negative, infinite, not a number, or all zero."""


def check_integers(argument: str, tokens: Tensor) -> None:
    """Raise ShapeError unless `tokens` is a tensor of integers, of any shape."""
    if not isinstance(tokens, Tensor):
        raise ShapeError(argument, f"a {type(tokens).__name__}", "a tensor of integer token ids")
    if tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
        raise ShapeError(argument, f"dtype {tokens.dtype}", "integer token ids")


def check_tokens(argument: str, tokens: Tensor, limit: int) -> None:
    """Raise ShapeError for tokens that are no integers, TokenError for ids outside 0 .. limit - 1; of any shape."""
    check_integers(argument, tokens)
    if tokens.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(tokens))
    if low < 0 or high >= limit:
        raise TokenError(argument, f"token {low if low < 0 else high}", f"ids from 0 to {limit - 1}")


def check_sigma(argument: str, sigma: Tensor | float) -> Tensor:
    """The noise level as float64 of its shape; raises SigmaError unless it is finite and not negative everywhere."""
    values = torch.as_tensor(sigma, dtype=torch.float64)
    wrong = ~(torch.isfinite(values) & (values >= 0))
    if bool(wrong.any()):
        raise SigmaError(argument, float(values[wrong].flatten()[0]), "a finite number, 0 or more")
    return values


def check_time(argument: str, t: Tensor | float, *, allow_zero: bool = False) -> Tensor:
    """The time as float64 of its shape; raises TimeError unless it lies in (0, 1], or in [0, 1] with `allow_zero`."""
    values = torch.as_tensor(t, dtype=torch.float64)
    above = values >= 0 if allow_zero else values > 0
    wrong = ~(above & (values <= 1))
    if bool(wrong.any()):
        interval = "[0, 1]" if allow_zero else "(0, 1]"
        raise TimeError(argument, float(values[wrong].flatten()[0]), f"a time in {interval}")
    return values


def check_number(argument: str, value: float, low: float, high: float, *, low_open: bool = False) -> float:
    """A plain number in [low, high], or (low, high] with `low_open`; raises SettingError otherwise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (low < value if low_open else low <= value) or not value <= high:  # NaN fails every comparison
        raise SettingError(argument, repr(value), f"a number in {'(' if low_open else '['}{low:g}, {high:g}]")
    return float(value)


def check_count(argument: str, value: int) -> int:
    """A whole number, 1 or more; raises SettingError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingError(argument, repr(value), "a whole number, 1 or more")
    return value


def check_entries(argument: str, values: Tensor, tokens: Tensor, dim: int) -> None:
    """Raise ShapeError unless `values` is [..., dim] for tokens of shape [...]."""
    if values.shape != (*tokens.shape, dim):
        raise ShapeError(argument, f"shape {list(values.shape)}", f"{[*tokens.shape, dim]}, dim entries a token")
