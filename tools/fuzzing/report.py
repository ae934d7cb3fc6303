"""Summarise verdicts in a table by kind of case."""

from collections import defaultdict
from collections.abc import Iterable

from tools.fuzzing.oracle import GOOD, Verdict

_HEAD = ("kind", "cases", "accepted", "refused", "findings", "slowest", "most memory")


def format_table(verdicts: Iterable[Verdict]) -> str:
    """Format a row per kind and a total: cases, outcomes, slowest case, and peak memory above the start."""
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        kinds[verdict.kind].append(verdict)
    rows = [_HEAD, *(_row(kind, found) for kind, found in sorted(kinds.items()))]
    if len(kinds) > 1:
        rows.append(_row("all", [verdict for found in kinds.values() for verdict in found]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(kind: str, found: list[Verdict]) -> tuple[str, ...]:
    findings = sum(verdict.complaint is not None for verdict in found)
    good = sum(verdict.complaint is None and verdict.code == GOOD for verdict in found)
    refused = len(found) - findings - good
    seconds, megabytes = max(verdict.seconds for verdict in found), max(verdict.megabytes for verdict in found)
    counts = (f"{count:,}" for count in (len(found), good, refused, findings))
    return (kind, *counts, f"{seconds:.2f} s", f"{megabytes:.0f} MB")
