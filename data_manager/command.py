"""`python -m data_manager.data_manager`: load what a file names and show it, or name what can be had."""

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
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_manager.data_manager",
        description="Load the data sets of a file, and show what they hold.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="F", help="a YAML file with a section `datasets`")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="load this data set alone")
    parser.add_argument("--set", metavar="K=V", action="append", default=[], dest="overrides", help="lay a value on it")
    parser.add_argument("--json", action="store_true", help="print one JSON object: ok, errors, datasets, unused")
    parser.add_argument("--prune", action="store_true", help="remove what is prepared and not used by this file")
    parser.add_argument("--list", action="store_true", help="name the sources and speech corpora that there are")
    parser.add_argument(
        "--plugin",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module that registers your own sources",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, see EXAMPLES."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.config and not args.list:
        parser.error("give a file, --config experiment.yml, or --list")
    if args.prune and args.only:
        parser.error("--prune looks at all data sets of a file, so it does not go with --only")
    import_plugins(args.plugin, parser.error)
    if not _draws_bars() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a text may have any character
    try:
        return _list(args.json) if args.list else _load(args)
    except BrokenPipeError:  # the reader of what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept, and a second start goes on from there", file=sys.stderr)
        return INTERRUPTED


def _list(as_json: bool) -> int:
    if as_json:
        print(json.dumps(catalogue(), indent=2))
    else:
        print_catalogue()
    return GOOD


def _load(args: argparse.Namespace) -> int:
    """Load and show each data set as soon as it is there."""
    try:
        configs = chosen(parse_dataset_configs(args.config, args.overrides), args.only)
    except ConfigError as error:
        _fail(args.json, str(error), [problem.as_dict() for problem in error.problems])
        return UNREADABLE if error.is_unreadable else INVALID
    except DataError as error:
        _fail(args.json, f"{args.config}: {error}", [{"file": args.config, "message": str(error)}])
        return INVALID
    reports: list[dict[str, Any]] = []
    try:
        for config in configs:
            reports.append(_show(config, args.json, first=not reports))
        unused = [] if args.only else _unused(configs, args.prune, quiet=args.json)
    except (DataError, OSError) as error:
        _fail(args.json, f"{args.config}: {error}", [{"file": args.config, "message": str(error)}], reports)
        return LOADING_FAILED
    if args.json:
        print(json.dumps({"ok": True, "errors": [], "datasets": reports, "unused": unused}, indent=2))
    return GOOD


def _unused(configs: Sequence[DatasetConfig], removes: bool, quiet: bool) -> list[dict[str, Any]]:
    """What the folders of the data sets, all of them loaded, hold besides; told or removed."""
    from data_manager.leftovers import leftovers, prune
    from data_manager.report_text import unused_text
    from data_manager.tokenizer_factory import output_folder

    found = [left for config in configs if (left := leftovers(output_folder(config))) is not None]
    for left in found:
        if removes:
            prune(left)
        if not quiet:
            print("\n" + harmless(unused_text(left, removed=removes)))
    return [asdict(left) for left in found]


def chosen(configs: Sequence[DatasetConfig], names: Sequence[str]) -> list[DatasetConfig]:
    """The configs of these names, all where none is named; raises DataError for a name that no config has."""
    known = {config.name: config for config in configs}
    for name in names:
        if name not in known:
            raise DataError(f"there is no data set {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(configs)


def _show(config: DatasetConfig, as_json: bool, first: bool) -> dict[str, Any]:
    from data_manager.data_manager import DatasetManager
    from data_manager.report import describe
    from data_manager.report_text import report_text

    with _notes_unlogged():
        report = describe(config, DatasetManager.load_dataset(config))
    if not as_json:
        print(("" if first else "\n") + harmless(report_text(report, plain=not _draws_bars())), flush=True)
    return report.as_dict()


@contextmanager
def _notes_unlogged() -> Iterator[None]:
    """Keep quiet of what is left out, as it stands in the report."""
    logs = [logging.getLogger(f"data_manager.{module}") for module in ("loading", "speech")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _draws_bars() -> bool:
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
