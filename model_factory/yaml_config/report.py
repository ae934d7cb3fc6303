"""Printing of problems on the command line."""

import json
import os
import sys
from typing import TextIO

from model_factory.yaml_config.errors import ConfigError, Problem
from model_factory.yaml_config.exit_codes import INVALID, UNREADABLE


def report_failure(error: ConfigError, as_json: bool) -> int:
    """Print the problems on stderr, or as one JSON object on stdout; return the exit code."""
    if as_json:
        errors = [problem.as_dict() for problem in error.problems]
        print(json.dumps({"ok": False, "errors": errors, "config": None}, indent=2))
    else:
        print_problems(error.problems, sys.stderr)
    return UNREADABLE if error.is_unreadable else INVALID


def print_problems(problems: list[Problem], stream: TextIO) -> None:
    """Print each problem with its line and caret, then their number; in colour on a terminal."""
    colour = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    bold, red, reset = ("\x1b[1m", "\x1b[31m", "\x1b[0m") if colour else ("", "", "")
    for problem in problems:
        head, (*source, caret) = problem.headline(), problem.excerpt() or [""]
        place = str(problem.place)
        print(f"{bold}{place}{reset}{head[len(place) :]}", file=stream)
        for line in source:
            print(line, file=stream)
        if caret:
            print(f"{red}{caret}{reset}", file=stream)
    print(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}", file=stream)
