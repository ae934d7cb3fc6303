"""Command line of the verb `compare`: a table of runs, as text, JSON, CSV or an HTML page."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import report_error, run_verb
from model_factory.pages.target import check_target
from model_factory.yaml_config.errors import escape_controls, escape_line
from model_factory.yaml_config.exit_codes import GOOD

EXAMPLES = f"""\
examples:
  python -m model_factory compare runs/a runs/b          a row for each run, named by the keys in which they differ
  python -m model_factory compare sweeps/lr              the runs of a sweep; a row has the mean over its seeds
  python -m model_factory compare sweeps/lr --html lr.html   also a page with the curves of all runs over each other
  python -m model_factory compare runs/* --csv > runs.csv
  python -m model_factory compare runs/* --metric eval_accuracy

Rows are sorted by the first metric whose name tells that lower or higher is better, or by --metric. A report of evaluate in
a run folder (evaluate --run R --json > R/evaluation.json) adds its figures. tokens/s counts padding; it is known for rows
of a fixed length. time is that of the training steps and the evaluations between them.

{CODES}"""


def build_parser(prog: str = "model-factory compare") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = build_verb_parser(
        prog,
        script="python -m model_factory compare",
        description="Compare runs: metrics (mean and deviation over seeds), parameters, speed and time.",
        examples=EXAMPLES,
        shared=("plugin", "json"),
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run folder, finished or not, or the folder of a sweep"
    )
    parser.add_argument("--metric", metavar="M", help="sort the rows by this metric")
    parser.add_argument("--csv", action="store_true", help="print CSV, with unrounded numbers")
    parser.add_argument("--html", metavar="FILE", help="also write an HTML page with the curves of the runs")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory compare") -> int:
    """Run the command line and return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if args.csv and args.json:
        parser.error("give one of --csv and --json")
    if "" in args.runs:
        parser.error("a run is empty; give the folder of a run")
    if args.html:
        check_target(args.html, parser.error)
    args.overrides = []
    return run_verb(args, parser.error, lambda: _compare(args))


def _compare(args: argparse.Namespace) -> int:
    from model_factory.sweep.comparison import compare_runs, find_runs

    try:
        folders, notes = find_runs([Path(path) for path in args.runs])
        comparison = compare_runs(folders, notes, args.metric)
        if args.html:
            from model_factory.pages.comparison_page import render_comparison_page
            from model_factory.pages.document import write_page

            write_page(args.html, render_comparison_page(Path(args.runs[0]).name, comparison))
            print(escape_line(f"page written to {args.html}"), file=sys.stderr)
        if args.json:
            print(json.dumps({"ok": True, "errors": [], **comparison.as_dict()}, indent=2, ensure_ascii=False))
        elif args.csv:
            print(comparison.csv(), end="")
        else:
            print(escape_controls(comparison.text()))
    except BrokenPipeError:
        raise
    except Exception as error:
        place = next((path for path in args.runs if str(error).startswith(path)), args.runs[0])
        return report_error(error, place, args.json)
    return GOOD


if __name__ == "__main__":
    sys.exit(main())
