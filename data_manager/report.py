"""The table of loaded data sets that `python -m data_manager.data_manager --config F` prints."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError

GOOD, INVALID, _, UNREADABLE, LOADING_FAILED = range(5)


@dataclass(frozen=True)
class Row:
    """One split in words."""

    dataset: str
    split: str
    size: str
    kind: str
    lengths: str
    tokenizer: str = "-"


HEADINGS = Row("data set", "split", "size", "kind", "lengths (least, mean, most)", "tokenizer")


def describe(config: DatasetConfig, splits: dict[str, Any]) -> list[Row]:
    """A row of the table for each split of one loaded data set."""
    tokenizer = DatasetManager.tokenizer(config)
    settings = getattr(config, "tokenizer", None)
    vocabulary = f"{settings.type}, {tokenizer.vocab_size} ids" if tokenizer and settings else "-"
    return [Row(config.name, split, *_measures(data), vocabulary) for split, data in splits.items()]


def table(rows: Sequence[Row]) -> str:
    """Rows under their headings, the columns aligned."""
    lines = [astuple(row) for row in (HEADINGS, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Load what a file names and print it; returns the exit code (0, 1 invalid, 3 unreadable, 4 loading failed)."""
    from data_manager.parse_data_args import parse_dataset_configs
    from yaml_config.errors import ConfigError

    parser = argparse.ArgumentParser(prog="python -m data_manager.data_manager", description="Load data sets.")
    parser.add_argument("--config", metavar="F", required=True, help="a YAML file with a section `datasets`")
    parser.add_argument("--set", metavar="K=V", action="append", default=[], dest="overrides", help="lay a value on it")
    args = parser.parse_args(argv)
    try:
        configs = parse_dataset_configs(args.config, args.overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return UNREADABLE if error.is_unreadable else INVALID
    rows = []
    for config in configs:
        try:
            rows += describe(config, DatasetManager.load_dataset(config))
        except (DataError, OSError) as error:
            print(f"{args.config}: {error}", file=sys.stderr)
            if rows:
                print(table(rows))
            return LOADING_FAILED
    print(table(rows))
    return GOOD


def _measures(data: Any) -> tuple[str, str, str]:
    """Size, kind and lengths of one split."""
    columns = getattr(data, "column_names", None)
    if columns is None:
        seconds = [cut.duration for cut in data]
        return f"{len(seconds):,} cuts", "speech", f"{_spread(seconds, '.1f')} s, {sum(seconds) / 3600:.2f} h in all"
    if "source_ids" in columns:
        sides = [_lengths(data, side) for side in ("source_ids", "target_ids")]
        return f"{len(data):,} pairs", "pairs", " / ".join(_spread(side, ".0f") for side in sides) + " tokens"
    lengths = _lengths(data, "input_ids")
    return f"{len(data):,} rows", "text", f"{_spread(lengths, '.0f')} tokens, {sum(lengths):,} in all"


def _lengths(data: Any, column: str) -> list[int]:
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    found: list[int] = pc.list_value_length(data.data.column(column)).to_pylist()
    return found


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "none"
    return ", ".join(format(value, form) for value in (min(values), sum(values) / len(values), max(values)))
