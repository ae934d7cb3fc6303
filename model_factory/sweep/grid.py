"""Points of a sweep: values of `--set KEY=V1,V2,...` and `--seeds`, ranges for Optuna, and names of run folders.

Imports no torch, so that wrong options end at once.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_factory.yaml_config.scalars import resolve_scalar

SEED = "training.seed"
MAX_POINTS = 10_000
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST_VALUE, _LONGEST_NAME = 40, 180
"""Characters of a value and bytes of a folder name; longer ones are cut and end with a hash."""


class SweepUsageError(ValueError):
    """Error of an option of the sweep; the message says what to write."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both ends are, on a logarithmic scale with `log`."""

    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Return True if only integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Axis:
    """A key of the file and the values that it takes, as texts of the command line, or their range."""

    key: str
    texts: tuple[str, ...]
    range: Range | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """Return the values to check before the sweep starts: all of a list, both ends of a range."""
        return self.texts if self.range is None else (repr(self.range.low), repr(self.range.high))


@dataclass(frozen=True)
class Point:
    """A run of the sweep: the name of its folder and its `--set` options."""

    name: str
    overrides: tuple[str, ...]


def split_values(text: str) -> list[str]:
    """Split `1e-4,[1, 2],"a,b"` at the commas outside of brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and not text[start:index].strip(" [{,:"):
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def read_axes(options: Sequence[str], seeds: str | None, *, with_ranges: bool) -> tuple[list[Axis], list[str]]:
    """Divide `--set` options into axes, with several values or a range, and options that hold for every run.

    Raises SweepUsageError for an empty or repeated value, a range in a grid, and a sweep with nothing to vary.
    """
    axes, fixed = [], []
    for option in options:
        key, _, text = option.partition("=")
        key = key.strip()
        found = _RANGE.fullmatch(text.strip())
        values = split_values(text)
        if found is not None:
            axes.append(Axis(key, (), _read_range(option, found, with_ranges)))
        elif len(values) == 1:
            fixed.append(option)
        else:
            axes.append(Axis(key, _check_values(option, values)))
    if seeds is not None:
        axes.append(Axis(SEED, _read_seeds(seeds)))
    _check_keys(axes, fixed)
    if not axes:
        raise SweepUsageError(
            "a sweep needs a key with several values, as in --set training.learning_rate=1e-4,3e-4, or --seeds 0,1,2"
        )
    return axes, fixed


def _read_range(option: str, found: re.Match[str], is_allowed: bool) -> Range:
    low, high = resolve_scalar(found[1].removeprefix("+")), resolve_scalar(found[2].removeprefix("+"))
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not is_allowed:
        raise SweepUsageError(f"--set {option} is a range, which needs --search optuna; a grid takes values: V1,V2,V3")
    if not low < high:
        raise SweepUsageError(f"--set {option}: a range is LOW..HIGH, with LOW below HIGH")
    if found[3] and low <= 0:
        raise SweepUsageError(f"--set {option}: a logarithmic range begins above 0")
    both = isinstance(low, int) and isinstance(high, int)
    return Range(low, high, bool(found[3])) if both else Range(float(low), float(high), bool(found[3]))


def _check_values(option: str, values: Sequence[str]) -> tuple[str, ...]:
    if "" in values:
        raise SweepUsageError(
            f"--set {option} has an empty value; write KEY=V1,V2,V3, and quotes around a value with a comma"
        )
    shown = [show_value(value) for value in values]
    if twice := sorted({value for value in shown if shown.count(value) > 1}):
        raise SweepUsageError(f"--set {option} has the value {twice[0]} twice; leave one out")
    return tuple(values)


def _read_seeds(text: str) -> tuple[str, ...]:
    seeds = [part.strip() for part in text.split(",")]
    if not all(seed.isascii() and seed.isdigit() and int(seed) < 2**32 for seed in seeds):
        raise SweepUsageError(f"--seeds takes numbers from 0 to {2**32 - 1}, as in 0,1,2; got {text!r}")
    unique = tuple(dict.fromkeys(str(int(seed)) for seed in seeds))
    if len(unique) < len(seeds):
        raise SweepUsageError(f"--seeds {text} names a seed twice; leave one out")
    return unique


def _check_keys(axes: Sequence[Axis], fixed: Sequence[str]) -> None:
    """Raise SweepUsageError for a key with two options, one of which would have no effect."""
    keys = [*(axis.key for axis in axes), *(option.partition("=")[0].strip() for option in fixed)]
    for key in keys:
        if keys.count(key) > 1 and any(axis.key == key for axis in axes):
            other = "--seeds and --set" if key == SEED and axes[-1].key == SEED else "two options --set"
            raise SweepUsageError(f"{other} give values of {key}; give all of them in one option")


def points_of(axes: Sequence[Axis]) -> list[Point]:
    """Return the points of the grid, the last axis running fastest; raise SweepUsageError for too many."""
    count = 1
    for axis in axes:
        count *= len(axis.texts)
    if count > MAX_POINTS:
        raise SweepUsageError(f"the grid has {count:,} points, and may have {MAX_POINTS:,}; use --search optuna")
    names = short_names([axis.key for axis in axes])
    return [_point(axes, names, texts) for texts in itertools.product(*(axis.texts for axis in axes))]


def _point(axes: Sequence[Axis], names: Sequence[str], texts: Sequence[str]) -> Point:
    pairs = list(zip(axes, names, texts, strict=True))
    name = folder_name([(short, show_value(text)) for _, short, text in pairs])
    return Point(name, tuple(f"{axis.key}={text}" for axis, _, text in pairs))


def probe_points(axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield points that together have each value, or end of a range, of each axis; the first has all first values."""
    names = short_names([axis.key for axis in axes])
    first = [axis.ends[0] for axis in axes]
    yield _point(axes, names, first)
    for index, axis in enumerate(axes):
        for text in axis.ends[1:]:
            yield _point(axes, names, [*first[:index], text, *first[index + 1 :]])


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the shortest ends of dotted keys, of at least one word, that tell them apart."""
    found = []
    for key in keys:
        words = key.split(".")
        ends = [".".join(words[-count:]) for count in range(1, len(words) + 1)]
        others = [f".{other}" for other in keys if other != key]
        names = (end for end in ends if not end.isdigit() and not any(o.endswith(f".{end}") for o in others))
        found.append(next(names, key))
    return found


def show_value(text: str) -> str:
    """Return a value as it is shown: `3e-4` as 0.0003, other scalars and YAML as they were written."""
    try:
        value = resolve_scalar(text)
    except ValueError:
        return text
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text


def folder_name(values: Sequence[tuple[str, str]], prefix: str = "") -> str:
    """Return the name of a run's folder, `learning_rate=0.0003,seed=1`: readable, and safe in any shell and file system."""
    name = ",".join([*([prefix] if prefix else []), *(f"{_safe(key)}={_safe(value)}" for key, value in values)])
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{_hash(name)}"


def _safe(text: str) -> str:
    safe = _UNSAFE.sub("_", text)[:_LONGEST_VALUE]
    return safe if safe == text else f"{safe}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
