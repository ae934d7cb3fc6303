"""Format a data set's report as text for a terminal."""

import os
from collections.abc import Iterator

from data_manager.leftovers import Leftovers
from data_manager.lengths import Lengths
from data_manager.report import DatasetReport, SplitReport

_WIDTH = 100
_INDENT = " " * 4


def report_text(report: DatasetReport, *, plain: bool = False) -> str:
    """Format a report as lines of text; `plain` draws histograms in ASCII only."""
    parts = [f"source {report.source}"]
    if report.tokenizer is not None:
        parts.append(f"tokenizer {report.tokenizer} with {report.vocabulary:,} ids")
    lines = [f"{report.name}: {', '.join(parts)}"]
    for split in report.splits:
        lines += _format_split(split, plain)
    return "\n".join(lines)


def format_stale_cache(left: Leftovers, *, removed: bool) -> str:
    """Describe the stale cache folders of a data set, and say how to remove them."""
    count = f"{len(left.names)} cached folder{'s' if len(left.names) != 1 else ''} not used by this file"
    names = ", ".join(left.names[:3]) + (", ..." if len(left.names) > 3 else "")
    action = "removed" if removed else "--prune removes them, even if another config with this data set name uses them"
    return f"{_shortest_path(left.folder)}: {count}, {_format_bytes(left.bytes)} ({names}); {action}"


def _format_bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _format_split(split: SplitReport, plain: bool) -> Iterator[str]:
    yield f"  {split.split}: {', '.join(_format_sizes(split))}"
    for name, lengths in split.lengths.items():
        yield f"{_INDENT}{_length_label(name)}: {_format_lengths(name, lengths, plain)}"
    if split.classes is not None:
        yield f"{_INDENT}classes: {', '.join(f'{name} {count:,}' for name, count in split.classes.items())}"
    for line in split.left_out:
        yield f"{_INDENT}note: {line}"
    for number, example in enumerate(split.examples, 1):
        shown = " -> ".join(map(_shorten, example)) if isinstance(example, tuple) else _shorten(example)
        yield f"{_INDENT}{number}. {shown}"
    for folder in split.kept_in:
        yield f"{_INDENT}cached in {_shortest_path(folder)}"


def _format_sizes(split: SplitReport) -> Iterator[str]:
    if split.size is None:
        yield "a stream; only its first rows are described"
    else:
        yield f"{split.size:,} {split.unit if split.size != 1 else split.unit.removesuffix('s')}"
    if split.documents is not None and split.unit == "rows":
        yield f"{split.documents:,} document{'s' if split.documents != 1 else ''}"
    if split.tokens is not None:
        yield f"{split.tokens:,} tokens"
    if split.hours is not None:
        yield format_duration(split.hours * 3600)


def format_duration(seconds: float) -> str:
    """Format seconds in the largest unit not above them: `11.7 seconds`, `5.0 minutes`, `960.9 hours`."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _length_label(column: str) -> str:
    side = column.removesuffix("_ids")
    return "lengths" if side in ("input", "seconds") else f"lengths of the {side}"


def _format_lengths(column: str, lengths: Lengths | None, plain: bool) -> str:
    if lengths is None:
        return "none"
    return lengths.text("s", 1, plain=plain) if column == "seconds" else lengths.text("tokens", plain=plain)


def _shorten(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _WIDTH else f"{shown[: _WIDTH - 4]}...{shown[0]}"


def _shortest_path(folder: str) -> str:
    """Return the folder relative to the working directory, if that is shorter."""
    relative = os.path.relpath(folder)
    return relative if len(relative) < len(folder) else folder
