"""Verb `data`: load and summarise the data sets of a file, or list what is available."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from data_manager import loading
from data_manager.cache import Leftovers, leftovers, prune
from data_manager.data_manager import catalogue, print_catalogue
from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.paths import full_path
from data_manager.progress import progress_counter
from data_manager.report import DatasetReport, SplitReport, describe
from data_manager.row_types import TokensConfig
from data_manager.rows.lengths import Lengths
from data_manager.rows.shard_check import check_content
from data_manager.rows.shards import write_shards
from data_manager.tokenizers.factory import output_folder
from model_factory.cli.options import build_verb_parser
from model_factory.cli.run_command import run_verb
from model_factory.yaml_config.errors import ConfigError, escape_controls
from model_factory.yaml_config.exit_codes import FAILED, GOOD, INVALID, UNREADABLE

EXAMPLES = """\
examples:
  python -m data_manager.data_manager --config my.yml
  python -m data_manager.data_manager --config my.yml --set global_config.num_proc=4 --json
  python -m data_manager.data_manager --list

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file, 4 loading failed, 130 interrupted"""
SCRIPT = "python -m data_manager.data_manager"


def build_parser(prog: str = SCRIPT) -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script=SCRIPT,
        description="Load the data sets of a config file and summarise each split.",
        examples=EXAMPLES,
        shared=("config", "set", "plugin", "json"),
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="load only this data set; may be repeated"
    )
    parser.add_argument(
        "--write-shards",
        metavar="FOLDER",
        help="write the rows of the data set into a new folder, which `shards: FOLDER` maps into memory",
    )
    parser.add_argument(
        "--check-shards",
        action="store_true",
        help="read all shards of the data sets, and compare them with their hashes",
    )
    parser.add_argument("--prune", action="store_true", help="remove cached folders that this file does not use")
    parser.add_argument("--list", action="store_true", help="list the available sources and speech corpora")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if not args.config and not args.list:
        parser.error("give a file, --config experiment.yml, or --list")
    if args.prune and args.only:
        parser.error("--prune needs all data sets of a file; leave out --only")
    return run_verb(
        args,
        parser.error,
        lambda: _list_available(args.json) if args.list else _load_and_report(args),
        lambda: "interrupted; finished splits are cached, and the next run resumes from them",
    )


def _list_available(as_json: bool) -> int:
    if as_json:
        print(json.dumps(catalogue(), indent=2))
    else:
        print_catalogue()
    return GOOD


def _load_and_report(args: argparse.Namespace) -> int:
    """Load the data sets one by one and print each report as soon as it is ready."""
    try:
        configs = select_configs(parse_dataset_configs(args.config, args.overrides), args.only)
    except ConfigError as error:
        _fail(args.json, str(error), [problem.as_dict() for problem in error.problems])
        return UNREADABLE if error.is_unreadable else INVALID
    except DataError as error:
        _fail(args.json, f"{args.config}: {error}", [{"file": args.config, "message": str(error)}])
        return INVALID
    reports: list[dict[str, Any]] = []
    try:
        if args.write_shards is not None:
            return _write_shards(configs, args)
        if args.check_shards:
            return _check_shards(configs, args.json)
        for config in configs:
            reports.append(_report_dataset(config, args.json, first=not reports))
        unused = [] if args.only else _handle_stale_cache(configs, args.prune, quiet=args.json)
    except BrokenPipeError:
        raise
    except (DataError, OSError) as error:
        _fail(args.json, f"{args.config}: {error}", [{"file": args.config, "message": str(error)}], reports)
        return FAILED
    if args.json:
        print(json.dumps({"ok": True, "errors": [], "datasets": reports, "unused": unused}, indent=2))
    return GOOD


def _write_shards(configs: Sequence[DatasetConfig], args: argparse.Namespace) -> int:
    """Write the rows of the only data set; print where, and the line of the file that reads them. Raise DataError."""
    if len(configs) > 1:
        names = ", ".join(config.name for config in configs)
        raise DataError(
            f"--write-shards is for one data set, and the file has {names}; choose one: --only {configs[0].name}"
        )
    (config,) = configs
    tokenizer = loading.tokenizer_for(config)
    if not isinstance(config, TokensConfig) or tokenizer is None:
        raise DataError(f"data set {config.name!r} has no text, and --write-shards writes rows of token ids")
    if config.shards is not None:
        raise DataError(f"data set {config.name!r} reads shards already; remove its key shards to write others")
    content = write_shards(full_path(args.write_shards), config, loading.load(config), tokenizer)
    written = {
        split: {"rows": sum(record["rows"]), "tokens": record["tokens"], "shards": len(record["rows"])}
        for split, record in content["splits"].items()
    }
    if args.json:
        print(json.dumps({"ok": True, "errors": [], "folder": args.write_shards, "splits": written}, indent=2))
        return GOOD
    for split, sizes in written.items():
        print(
            escape_controls(f"{split}: {sizes['rows']:,} rows, {sizes['tokens']:,} tokens, shards: {sizes['shards']}")
        )
    print(escape_controls(f"written; to read them, add to data set {config.name!r}: shards: {args.write_shards}"))
    return GOOD


def _check_shards(configs: Sequence[DatasetConfig], as_json: bool) -> int:
    """Check the content of all shards; print their sizes. Raise DataError."""
    mapped = [config for config in configs if isinstance(config, TokensConfig) and config.shards is not None]
    if not mapped:
        raise DataError("--check-shards reads shards, and no data set has the key shards")
    found = {}
    for config in mapped:
        with progress_counter(f"{config.name}: check of shards", " bytes") as advance:
            found[config.name] = check_content(config, advance)
    if as_json:
        sizes = {name: asdict(checked) for name, checked in found.items()}
        print(json.dumps({"ok": True, "errors": [], "checked": sizes}, indent=2))
        return GOOD
    for name, checked in found.items():
        print(escape_controls(f"{name}: {checked.files} files of shards, {_format_bytes(checked.bytes)}, as written"))
    return GOOD


def _handle_stale_cache(configs: Sequence[DatasetConfig], is_pruning: bool, quiet: bool) -> list[dict[str, Any]]:
    """Report or remove stale cache folders of the data sets, all of which have been loaded."""
    found = [left for config in configs if (left := leftovers(output_folder(config))) is not None]
    for left in found:
        if is_pruning:
            prune(left)
        if not quiet:
            print("\n" + escape_controls(format_stale_cache(left, removed=is_pruning)))
    return [asdict(left) for left in found]


def select_configs(configs: Sequence[DatasetConfig], names: Sequence[str]) -> list[DatasetConfig]:
    """Select configs by name, or all without names; raise DataError for an unknown name."""
    known = {config.name: config for config in configs}
    for name in names:
        if name not in known:
            raise DataError(f"unknown data set {name!r}; the file has {', '.join(known)}")
    return [known[name] for name in names] or list(configs)


def _report_dataset(config: DatasetConfig, as_json: bool, first: bool) -> dict[str, Any]:
    with _silence_skip_warnings():
        report = describe(config, loading.load(config))
    if not as_json:
        print(("" if first else "\n") + escape_controls(report_text(report, plain=not _can_print_bars())), flush=True)
    return report.as_dict()


@contextmanager
def _silence_skip_warnings() -> Iterator[None]:
    """Silence warnings about skipped rows; the report lists them."""
    logs = [logging.getLogger(f"data_manager.{module}") for module in ("loading", "speech")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _can_print_bars() -> bool:
    try:
        "▁█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _fail(as_json: bool, text: str, errors: list[dict[str, Any]], reports: Sequence[dict[str, Any]] = ()) -> None:
    if as_json:
        print(json.dumps({"ok": False, "errors": errors, "datasets": list(reports)}, indent=2))
    else:
        print(escape_controls(text), file=sys.stderr)


# Format a data set's report as text for a terminal.


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
    for line in (*split.left_out, *split.hints):
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
