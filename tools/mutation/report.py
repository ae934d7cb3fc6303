"""Write the tables of docs/mutation.md: outcomes per file, and reasons for survivors."""

import platform
import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version

import yaml

from tools.mutation.operators import Mutant, make_mutants
from tools.mutation.results import Result, Results
from tools.mutation.settings import ROOT, SUITES, list_files

PAGE = ROOT / "docs" / "mutation.md"
REASONS = ROOT / "tools" / "mutation" / "survivors.yml"


@dataclass
class Row:
    """Counts of a file: counted, excluded, tried and killed mutants, and the survivors."""

    path: str
    counted: int
    excluded: int
    tried: int
    killed: int
    survivors: list[Result]


def count_row(path: str, mutants: list[Mutant], results: Results) -> Row:
    """Count the outcomes of one file."""
    counted = [one for one in mutants if one.excluded is None]
    found = [results.known[one.key] for one in counted if one.key in results.known]
    survivors = [one for one in found if not one.is_killed]
    return Row(path, len(counted), len(mutants) - len(counted), len(found), len(found) - len(survivors), survivors)


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a proportion (1927)."""
    z, share = 1.959964, killed / tried
    middle = share + z**2 / (2 * tried)
    half = z * (share * (1 - share) / tried + z**2 / (4 * tried**2)) ** 0.5
    return (middle - half) / (1 + z**2 / tried), (middle + half) / (1 + z**2 / tried)


def write_tables() -> int:
    """Write the tables into the page; return 1 if a survivor has no reason."""
    results = Results(ROOT / ".mutation" / "results.jsonl")
    excluded: Counter[str] = Counter()
    rows: dict[str, list[Row]] = {}
    for suite in SUITES:
        rows[suite] = []
        for path in list_files(suite):
            mutants = make_mutants(path)
            excluded.update(one.excluded for one in mutants if one.excluded)
            rows[suite].append(count_row(path, mutants, results))
    reasons = read_reasons()
    survivors = [one for part in rows.values() for row in part for one in row.survivors]
    page = PAGE.read_text()
    for name, table in (
        ("mutants", _figures(rows)),
        ("excluded", _table(["reason", "mutants"], [[why, str(count)] for why, count in excluded.most_common()])),
        ("survivors", _survivors(survivors, reasons)),
        ("versions", _versions()),
    ):
        page = re.sub(
            rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", rf"\1\n{_escaped(table)}\n\n\2", page, flags=re.S
        )
    PAGE.write_text(page)
    without = sum(find_reason(one, reasons) is None for one in survivors)
    print(f"{PAGE.relative_to(ROOT)}: {len(survivors)} survivors, {without} of them without a reason")
    return int(without > 0)


def show_survivors(files: list[str] | None) -> int:
    """Print the survivors of the given files, or of all, with their reasons."""
    results, reasons = Results(ROOT / ".mutation" / "results.jsonl"), read_reasons()
    for suite in SUITES:
        for path in list_files(suite):
            if files is None or path in files:
                for one in count_row(path, make_mutants(path), results).survivors:
                    rest = "" if one.complete else " (slow tests not tried)"
                    print(f"{one.path}:{one.line} {one.scope}{rest}\n    - {one.before}\n    + {one.after}")
                    print(f"    {find_reason(one, reasons) or '?'}")
    return 0


def read_reasons() -> list[dict[str, str]]:
    """Read the reasons for survivors: entries of `path`, `before`, `after` (regular expressions) and `reason`."""
    found: list[dict[str, str]] = yaml.safe_load(REASONS.read_text()) or []
    return found


def find_reason(one: Result, reasons: list[dict[str, str]]) -> str | None:
    """Return the reason why a mutant survives, or None if none is recorded."""
    for entry in reasons:
        fits = (
            re.fullmatch(entry.get(key, ".*"), getattr(one, key), flags=re.S) for key in ("path", "before", "after")
        )
        if all(fits) and entry.get("line", one.line) == one.line:
            return entry["reason"]
    return None


def _figures(parts: dict[str, list[Row]]) -> str:
    lines = []
    for suite, rows in parts.items():
        lines += [_line(row.path, row) for row in rows]
        lines.append(_line(f"**{suite}**", _whole(rows)))
    lines.append(_line("**all**", _whole([row for rows in parts.values() for row in rows])))
    return _table(["file", "mutants", "tried", "killed", "survived", "killed of tried", "excluded"], lines)


def _whole(rows: list[Row]) -> Row:
    counted, excluded = sum(row.counted for row in rows), sum(row.excluded for row in rows)
    tried, killed = sum(row.tried for row in rows), sum(row.killed for row in rows)
    return Row("", counted, excluded, tried, killed, [])


def _line(name: str, row: Row) -> list[str]:
    share = "-"
    if row.tried:
        share = f"{100 * row.killed / row.tried:.1f} %"
        if row.tried < row.counted:
            low, high = interval(row.killed, row.tried)
            share += f" ({100 * low:.1f} to {100 * high:.1f})"
    return [
        name,
        *(str(n) for n in (row.counted, row.tried, row.killed, row.tried - row.killed)),
        share,
        str(row.excluded),
    ]


def _survivors(survivors: list[Result], reasons: list[dict[str, str]]) -> str:
    rows = []
    for one in survivors:
        tests = "" if one.complete else "; slow tests not tried"
        place = f"{one.path}:{one.line}"
        rows.append([place, _code(one.before), _code(one.after), (find_reason(one, reasons) or "?") + tests])
    return _table(["where", "was", "is", "reason"], rows)


def _code(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return f"`{flat if len(flat) <= 90 else flat[:87] + '...'}`"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("mutmut", "libcst", "pytest", "torch"))
    return f"Python {platform.python_version()}, {packages}."


def _escaped(table: str) -> str:
    return table.replace("\\", "\\\\")
