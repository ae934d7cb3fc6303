"""What `evaluate.py` does with its options: find the run, measure, print; and its exit codes."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evaluation.on_run import run_command
from evaluation.options import CODES, add_common_options
from yaml_config.errors import harmless

if TYPE_CHECKING:
    from evaluation.figure import Report

EXAMPLES = f"""\
examples:
  python evaluate.py                                      the newest run below ./runs on its split test
  python evaluate.py --run runs/mdlm --split validation --num-samples 200 --steps 128
  python evaluate.py --run runs/mdlm --judge models/gpt2  perplexity of samples under another model, and MAUVE
  python evaluate.py --run runs/latent --num-samples 500 --steps 50
  python evaluate.py --run runs/en_de --set generation.num_beams=4 --json > en_de.json
  python evaluate.py --run runs/mdlm --html mdlm.html     a page with figures, curves and samples
  python evaluate.py --run copied --set global_config.corpus_dir=/data   the data lie elsewhere than when it was trained

What is measured depends on the task: bits per token and character and perplexity (of diffusion models the bound, in its
parts), accuracy, BLEU and chrF, word and speaker error rates; of samples entropy and distinct n-grams, of molecules
validity, uniqueness, novelty and internal diversity. Of latent diffusion: how well texts are rebuilt from their latents
(bits per token, exact ones, BLEU), the KL and the diffusion's error; of samples self-BLEU, copies of training texts, and
distances of words (Jensen-Shannon) and latents (Frechet) to the split, beside those of training texts. Each figure has a 95 % interval, and says over what.

{CODES}"""


def build_parser(prog: str = "evaluate.py") -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure a trained run on a split of its data, and what it writes.",
        epilog=EXAMPLES.replace("python evaluate.py", prog) if " " in prog else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(parser)
    parser.add_argument(
        "--split", metavar="S", help="split to measure on (default: test, or else that of the training)"
    )
    parser.add_argument("--max-rows", metavar="N", type=int, help="measure the first N rows alone")
    parser.add_argument(
        "--draws", metavar="N", type=int, default=1, help="of diffusion models: times a row (default: %(default)s)"
    )
    parser.add_argument(
        "--judge", metavar="FOLDER", help="a language model that judges samples: a run, or transformers'"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with figures, curves and samples as well")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "evaluate.py") -> int:
    """Run the command line; returns the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    for name in ("max_rows", "draws"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} takes a number from 1 on; got {value}")
    return run(args, parser.error)


def run(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> int:
    """Carry out parsed options; `usage_error` ends the program with code 2."""
    if args.html:
        from pages.target import check_target

        check_target(args.html, usage_error)
    with_samples = args.num_samples != "0"
    args.num_samples = args.num_samples if with_samples else None

    def show(folder: Path, found: "tuple[dict[str, Any], Report]") -> int:
        result, report = found
        if args.json:
            print(json.dumps(result | report.as_dict(), indent=2, ensure_ascii=False))
        else:
            print(f"{folder}: {result['task']} on {result['rows']:,} rows of {result['dataset']} / {result['split']}\n")
            print(harmless(report.text()))
        return _write_page(args.html, folder, result, report) if args.html else 0

    return run_command(
        args, usage_error, lambda folder, overrides: _measure(args, folder, overrides, with_samples), show
    )


def _write_page(target: str, folder: Path, result: "dict[str, Any]", report: "Report") -> int:
    """Write the page behind the figures, which are not lost where it cannot be made; returns the exit code."""
    from evaluation.failure import report_error
    from pages.document import write
    from pages.evaluation_page import evaluation_page

    try:
        write(target, evaluation_page(folder, result, report))
    except Exception as error:
        return report_error(error, target, as_json=False)
    print(f"page written to {target}", file=sys.stderr)
    return 0


def _measure(
    args: argparse.Namespace, folder: Path, overrides: list[str], with_samples: bool
) -> "tuple[dict[str, Any], Report]":
    from evaluation.opened import open_run
    from evaluation.registry import evaluator_of
    from evaluation.rows import load_split
    from evaluation.settings import Settings
    from training.errors import UnfitError

    run = open_run(folder, overrides, device=args.device)
    if args.draws != 1 and run.task_name not in ("diffusion", "latent_diffusion"):
        raise UnfitError(f"--draws is of diffusion models, and {folder} is a run of task {run.task_name}")
    if args.judge and run.task_name not in ("diffusion", "latent_diffusion", "language_modelling"):
        raise UnfitError(
            f"--judge judges samples, and a run of task {run.task_name} ({folder}) is measured without any"
        )
    start = time.perf_counter()
    judge = Path(args.judge) if args.judge else None
    split = load_split(run, args.split, max_rows=args.max_rows, seed=args.seed)
    report = evaluator_of(run.task_name)(run, split, Settings(args.seed, args.draws, judge, with_samples))
    report.notes[:0] = [*run.notes, *split.notes]
    seconds = round(time.perf_counter() - start, 3)
    return {
        "ok": True,
        "errors": [],
        "run": str(folder),
        "model": run.config.model.name if run.config.model else None,
        "task": run.task_name,
        "dataset": run.entry.name,
        "split": split.name,
        "rows": len(split),
        "seed": args.seed,
        "seconds": seconds,
    }, report
