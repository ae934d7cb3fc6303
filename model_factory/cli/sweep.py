"""Options of the verb `sweep`; torch is imported only once they are valid."""

import argparse
import sys
from collections.abc import Sequence

from model_factory.cli.options import build_verb_parser
from model_factory.cli.run_command import report_error, run_verb
from model_factory.sweep.grid import Axis, SweepUsageError, points_of, read_axes
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.overrides import split_override

EXAMPLES = """\
examples:
  python -m model_factory sweep --config my.yml --set training.learning_rate=1e-4,3e-4,1e-3 --seeds 0,1,2 --output sweeps/lr
  python -m model_factory sweep --config my.yml --search optuna --trials 30 --output sweeps/search \\
      --set training.learning_rate=1e-5..1e-2:log --set training.warmup_steps=0..200 --set training.optim=adamw_torch,adafactor
  python -m model_factory sweep --config my.yml --search optuna --trials 30 --output sweeps/search --seeds 0,1 \\
      --set training.learning_rate=1e-5..1e-2:log --storage postgresql://me@host/sweeps --study lr

Every run is trained by the verb train in a separate process. The same command continues a sweep that was stopped:
finished runs are kept, an interrupted one is resumed, a failed one is tried again. `compare` prints a table of the runs.

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 a run failed, 130 interrupted"""
OPTUNA_ONLY = ("trials", "metric", "direction", "storage", "study")
"""Options that only --search optuna takes."""


def build_parser(prog: str = "model-factory sweep") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = build_verb_parser(
        prog,
        script="python -m model_factory sweep",
        description="Train a run for each point of a grid, or for each trial of an Optuna search, and compare them.",
        examples=EXAMPLES,
        required=("config",),
    )
    parser.add_argument(
        "--output", metavar="SWEEP", required=True, help="the sweep's folder, with a run folder in it for each point"
    )
    parser.add_argument("--seeds", metavar="S,S", help="train each point with each of these values of training.seed")
    parser.add_argument(
        "--search",
        choices=("grid", "optuna"),
        default="grid",
        help="grid: all combinations of --set KEY=V1,V2; optuna: trials within --set KEY=LOW..HIGH[:log] or KEY=V1,V2 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--jobs", metavar="N", type=_positive, default=1, help="grid: runs at once (default: %(default)s)"
    )
    parser.add_argument("--trials", metavar="N", type=_positive, help="optuna: number of trials in the study")
    parser.add_argument(
        "--metric", metavar="M", help="optuna: the metric of an evaluation to optimise (default: eval_loss)"
    )
    parser.add_argument("--direction", choices=("minimize", "maximize"), help="optuna: default: by the metric's name")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="optuna: a database that several machines share (default: SQLite in the folder)",
    )
    parser.add_argument("--study", metavar="NAME", help="optuna: the study's name (default: the name of the folder)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory sweep") -> int:
    """Run the command line and return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    _check_search(args, parser)

    def work() -> int:
        axes, fixed = _read_axes(args, parser)
        from model_factory.cli.sweep_run import run

        try:
            return run(args, axes, fixed)
        except BrokenPipeError:
            raise
        except Exception as error:
            return report_error(error, args.output, as_json=False)

    return run_verb(args, parser.error, work, lambda: f"{args.output}: interrupted; the same command continues it")


def _read_axes(args: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[list[Axis], list[str]]:
    """Return the axes of the sweep and the options that hold for every run; wrong ones end the program with code 2."""
    is_grid = args.search == "grid"
    try:
        axes, fixed = read_axes(args.overrides, args.seeds, with_ranges=not is_grid)
        if is_grid:
            points_of(axes)
        elif not any(axis.key != "training.seed" for axis in axes):
            raise SweepUsageError(
                "--search optuna needs a key to search, as in --set training.learning_rate=1e-5..1e-2:log"
            )
        for axis in axes:
            split_override(f"{axis.key}=")
    except ValueError as error:
        parser.error(escape_controls(str(error)))
    return axes, fixed


def _check_search(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the program with code 2 for an option of the other kind of search."""
    given = [name for name in OPTUNA_ONLY if getattr(args, name) is not None]
    if args.search == "grid" and given:
        parser.error(f"--{given[0]} goes with --search optuna")
    if args.search == "optuna" and args.trials is None:
        parser.error("--search optuna needs the number of trials: --trials 30")
    if args.search == "optuna" and args.jobs > 1:
        parser.error(
            "--jobs goes with a grid; for several trials at once, start this command several times, each with another "
            "--output and the same --storage and --study"
        )
    if args.search == "optuna":
        args.metric = args.metric or "eval_loss"


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"takes a number of at least 1; got {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
