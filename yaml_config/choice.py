"""Error of a name outside a set of names, like that of a pydantic Literal."""

from collections.abc import Iterable

from pydantic_core import PydanticCustomError


def not_one_of(names: Iterable[str], remedy: str = "") -> PydanticCustomError:
    """Return the error that a Literal of `names` would raise; `remedy` is shown if no name is near."""
    quoted = [f"{name!r}" for name in names]
    expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    context = {"expected": expected, "remedy": remedy}
    return PydanticCustomError("literal_error", "Input should be {expected}", context)
