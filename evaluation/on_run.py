"""Shared part of the generate and evaluate commands: find the run's folder, apply overrides, handle errors."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from evaluation.options import collect_overrides

Found = TypeVar("Found")


def run_command(
    args: argparse.Namespace,
    usage_error: Callable[[str], NoReturn],
    work: Callable[[Path, list[str]], Found],
    show: Callable[[Path, Found], int | None],
) -> int:
    """Run `work` on the folder given by --run, or on the newest run, with the config overrides; pass its result to `show`.

    Returns the exit code of `show`, 0 where it returns None; `usage_error` ends the program with code 2.
    """
    from evaluation.failure import GOOD, INTERRUPTED, report_error
    from evaluation.opened import name_override_options, newest_run
    from yaml_config.errors import ConfigError, printable
    from yaml_config.plugins import import_plugins
    from yaml_config.report import stop_printing, take_any_text

    take_any_text()
    overrides, flags = collect_overrides(args, usage_error)
    import_plugins(args.plugin, usage_error)
    place = args.run or "runs"
    try:
        folder = Path(args.run) if args.run else newest_run()
        place = str(folder)
        if not args.run:
            print(printable(f"{folder}: the newest run"), file=sys.stderr)
        return show(folder, work(folder, overrides)) or GOOD
    except KeyboardInterrupt:
        print(f"\n{printable(place)}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        stop_printing()
        return GOOD
    except ConfigError as error:
        return report_error(name_override_options(error, flags), place, args.json)
    except Exception as error:
        return report_error(error, place, args.json)
