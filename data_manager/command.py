"""`python -m data_manager.data_manager`: load and summarise the data sets of a file, or list what is available."""

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from data_manager.catalogue import catalogue, print_catalogue
from data_manager.dataset_types import DatasetConfig
from data_manager.errors import DataError
from data_manager.parse_data_args import parse_dataset_configs
from yaml_config.errors import ConfigError, harmless
from yaml_config.plugins import import_plugins

GOOD, INVALID, USAGE, UNREADABLE, LOADING_FAILED = range(5)
INTERRUPTED = 130

EXAMPLES = """\
examples:
  python -m data_manager.data_manager --config my.yml
  python -m data_manager.data_manager --config my.yml --set global_config.num_proc=4 --json
  python -m data_manager.data_manager --list

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file, 4 loading failed, 130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m data_manager.data_manager",
        description="Load the data sets of a config file and summarise each split.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="F", help="a YAML file with a section `datasets`")
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="load only this data set; may be repeated"
    )
    parser.add_argument(
        "--set", metavar="K=V", action="append", default=[], dest="overrides", help="override a config value"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: ok, errors, datasets, unused")
    parser.add_argument("--prune", action="store_true", help="remove cached folders that this file does not use")
    parser.add_argument("--list", action="store_true", help="list the available sources and speech corpora")
    parser.add_argument(
        "--plugin",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module that registers custom sources",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, see EXAMPLES."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.config and not args.list:
        parser.error("give a file, --config experiment.yml, or --list")
    if args.prune and args.only:
        parser.error("--prune needs all data sets of a file; leave out --only")
    import_plugins(args.plugin, parser.error)
    if not _can_print_bars() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # text may contain any character
    try:
        return _list_available(args.json) if args.list else _load_and_report(args)
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    except KeyboardInterrupt:
        print("\ninterrupted; finished splits are cached, and the next run resumes from them", file=sys.stderr)
        return INTERRUPTED


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
        for config in configs:
            reports.append(_report_dataset(config, args.json, first=not reports))
        unused = [] if args.only else _handle_stale_cache(configs, args.prune, quiet=args.json)
    except (DataError, OSError) as error:
        _fail(args.json, f"{args.config}: {error}", [{"file": args.config, "message": str(error)}], reports)
        return LOADING_FAILED
    if args.json:
        print(json.dumps({"ok": True, "errors": [], "datasets": reports, "unused": unused}, indent=2))
    return GOOD


def _handle_stale_cache(configs: Sequence[DatasetConfig], is_pruning: bool, quiet: bool) -> list[dict[str, Any]]:
    """Report or remove stale cache folders of the data sets, all of which have been loaded."""
    from data_manager.leftovers import leftovers, prune
    from data_manager.report_text import format_stale_cache
    from data_manager.tokenizer_factory import output_folder

    found = [left for config in configs if (left := leftovers(output_folder(config))) is not None]
    for left in found:
        if is_pruning:
            prune(left)
        if not quiet:
            print("\n" + harmless(format_stale_cache(left, removed=is_pruning)))
    return [asdict(left) for left in found]


def select_configs(configs: Sequence[DatasetConfig], names: Sequence[str]) -> list[DatasetConfig]:
    """Select configs by name, or all without names; raise DataError for an unknown name."""
    known = {config.name: config for config in configs}
    for name in names:
        if name not in known:
            raise DataError(f"unknown data set {name!r}; the file has {', '.join(known)}")
    return [known[name] for name in names] or list(configs)


def _report_dataset(config: DatasetConfig, as_json: bool, first: bool) -> dict[str, Any]:
    from data_manager import loading
    from data_manager.report import describe
    from data_manager.report_text import report_text

    with _silence_skip_warnings():
        report = describe(config, loading.load(config))
    if not as_json:
        print(("" if first else "\n") + harmless(report_text(report, plain=not _can_print_bars())), flush=True)
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
        print(harmless(text), file=sys.stderr)
