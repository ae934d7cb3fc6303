"""Command line of `evaluate.py`: find the run, measure it, print the report, return the exit code."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_factory.cli.options import CODES, add_sampling_options, build_verb_parser
from model_factory.cli.run_command import UsageError, announce_device, problem_of, report_error, run_on_folder
from model_factory.evaluation.settings import Settings
from model_factory.experiment.check_context import DIFFUSION_TASKS
from model_factory.experiment.metric_registry import metrics_of
from model_factory.pages.target import check_target
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.errors import escape_controls

if TYPE_CHECKING:
    from model_factory.evaluation.figure import Report

EXAMPLES = f"""\
examples:
  python evaluate.py                                      the newest run below ./runs on its split test
  python evaluate.py --run runs/mdlm --split validation --num-samples 200 --steps 128
  python evaluate.py --run runs/mdlm --judge models/gpt2  perplexity of samples under another model, and MAUVE
  python evaluate.py --run runs/latent --num-samples 500 --steps 50
  python evaluate.py --run runs/en_de --set generation.num_beams=4 --json > en_de.json
  python evaluate.py --run runs/mdlm --html mdlm.html     an HTML page with figures, curves and samples
  python evaluate.py --run runs/en_de --data newstest.en newstest.de     other data, with the run's tokenizer
  python evaluate.py --run runs/mdlm --data texts.jsonl --column body    also csv, parquet, text, a folder, config.yml
  python evaluate.py --run copied --set global_config.corpus_dir=/data   the data have moved since training

The task decides the metrics:
  language models   bits per token, per character and per byte, perplexity
  diffusion models  the same of the variational bound, and its parts
  translators       BLEU and chrF, perplexity of the references
  responses         exact matches, BLEU and chrF, of runs on rows with prompts and responses
  classifiers       accuracy, cross-entropy
  speech            word and character error rates, diarization error rate
  latent diffusion  reconstruction (bits per token, exact matches, BLEU), KL, diffusion error
  samples           entropy, distinct n-grams; of latent diffusion also self-BLEU, copies of training texts, and distances
                    to the split (Jensen-Shannon of words, Frechet of latents) beside those of training texts
  molecules         validity, uniqueness, novelty, internal diversity
Each figure has a 95 % confidence interval and names the items it is over. Characters, bytes and references are those of the
data's text, whatever its rows or its tokenizer leave out. A figure that fails leaves the others: the table gives the reason.

{CODES}"""


_LONGEST_COLLAR = 10


def build_parser(prog: str = "evaluate.py") -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script="python evaluate.py",
        description="Evaluate a trained run: metrics on a split of its data, and of its samples.",
        examples=EXAMPLES,
        shared=("run", "set", "plugin", "json"),
    )
    add_sampling_options(parser)
    parser.add_argument("--split", metavar="S", help="split to measure on (default: test, or else training.eval_split)")
    parser.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        help="measure on other data with the run's tokenizer: files (two of text are a pair), a folder of files, or the data "
        "set of a config.yml",
    )
    parser.add_argument("--column", metavar="C", nargs="+", help="with --data: column of a table, or the two of a pair")
    parser.add_argument("--max-rows", metavar="N", type=int, help="measure only the first N rows")
    parser.add_argument(
        "--draws",
        metavar="N",
        type=int,
        default=1,
        help="diffusion models: random times, or numbers of masks, per row (default: %(default)s)",
    )
    parser.add_argument(
        "--collar",
        metavar="S",
        type=float,
        default=0.0,
        help="diarization: seconds on either side of the edges of segments that are not scored (default: %(default)s)",
    )
    parser.add_argument(
        "--judge",
        metavar="FOLDER",
        help="language model for the perplexity of samples and MAUVE: a run folder, or a transformers folder",
    )
    parser.add_argument(
        "--write-predictions",
        metavar="FILE",
        help="also write a JSON object for each row: input, reference, prediction and scores",
    )
    parser.add_argument("--html", metavar="FILE", help="also write an HTML page with figures, curves and samples")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "evaluate.py") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    args.command = shlex.join([*prog.split(), *(sys.argv[1:] if argv is None else argv)])
    for name in ("max_rows", "draws"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} takes a number of at least 1; got {value}")
    if not 0 <= args.collar <= _LONGEST_COLLAR:
        parser.error(f"--collar takes seconds from 0 to {_LONGEST_COLLAR}, such as 0.25; got {args.collar}")
    if args.column and not args.data:
        parser.error("--column is for --data FILE; add the file, or leave --column out")
    if len(args.column or ()) > 2:
        parser.error(f"--column takes one column, or two of a pair; got {len(args.column)}")
    return run(args, parser.error)


def run(args: argparse.Namespace, usage_error: UsageError) -> int:
    """Run the parsed options and return the exit code; `usage_error` ends the program with code 2."""
    if args.html:
        check_target(args.html, usage_error)
    if args.write_predictions:
        check_target(args.write_predictions, usage_error, "--write-predictions", "predictions.jsonl")
    with_samples = args.num_samples != "0"
    args.num_samples = args.num_samples if with_samples else None

    def show(folder: Path, found: "tuple[dict[str, Any], Report]") -> int:
        result, report = found
        if args.json:
            print(json.dumps(result | report.as_dict(), indent=2, ensure_ascii=False))
        else:
            print(f"{folder}: {result['task']} on {result['rows']:,} rows of {result['dataset']} / {result['split']}\n")
            print(escape_controls(report.text()))
        codes = [report_error(error, str(folder), as_json=False) for error in report.failures]
        if args.html:
            codes.append(_write_page(args.html, folder, result, report))
        return next(filter(None, codes), 0)

    return run_on_folder(
        args, usage_error, lambda folder, overrides: _measure(args, folder, overrides, with_samples), show
    )


def _write_page(target: str, folder: Path, result: "dict[str, Any]", report: "Report") -> int:
    """Write the page after the figures are printed, so that an error loses no figures; returns the exit code."""
    from model_factory.pages.document import write_page
    from model_factory.pages.evaluation_page import render_evaluation_page

    try:
        write_page(target, render_evaluation_page(folder, result, report))
    except Exception as error:
        return report_error(error, target, as_json=False)
    print(f"page written to {target}", file=sys.stderr)
    return 0


def _measure(
    args: argparse.Namespace, folder: Path, overrides: list[str], with_samples: bool
) -> "tuple[dict[str, Any], Report]":
    from model_factory.evaluation.data import find_data
    from model_factory.evaluation.predictions import Predictions
    from model_factory.evaluation.rows import load_split
    from model_factory.evaluation.run import open_run

    run = open_run(folder, overrides, device=args.device)
    if args.draws != 1 and run.task_name not in (*DIFFUSION_TASKS, "latent_diffusion"):
        raise UnfitError(f"--draws is for diffusion models, and {folder} is a run of task {run.task_name}")
    if args.judge and run.task_name not in ("diffusion", "latent_diffusion", "language_modelling"):
        raise UnfitError(
            f"--judge needs samples, and a run of task {run.task_name} ({folder}) is measured without samples"
        )
    if args.collar and run.task_name != "diarization":
        raise UnfitError(f"--collar is for diarization, and {folder} is a run of task {run.task_name}")
    device = announce_device(run)
    start = time.perf_counter()
    judge = Path(args.judge) if args.judge else None
    other = find_data(run, args.data, args.column or ()) if args.data else None
    split = load_split(run, args.split, max_rows=args.max_rows, seed=args.seed, other=other)
    predictions = Predictions(Path(args.write_predictions) if args.write_predictions else None)
    settings = Settings(args.seed, args.draws, judge, with_samples, predictions, args.collar)
    with closing(predictions):
        report = metrics_of(run.task_name)(run, split, settings)
        if report.is_failed:
            raise report.failures[0]
        predictions.finish()
        if predictions:
            print(escape_controls(f"predictions written to {args.write_predictions}"), file=sys.stderr)
    if predictions and not predictions.rows:
        report.notes.append(
            f"the metrics of task {run.task_name} write no predictions, so {args.write_predictions} is empty"
        )
    report.notes[:0] = [*run.notes, *split.notes]
    seconds = round(time.perf_counter() - start, 3)
    return {
        "ok": not report.failures,
        "errors": [problem_of(error, str(folder)).as_dict() for error in report.failures],
        "run": str(folder),
        "model": run.config.model.name if run.config.model else None,
        "task": run.task_name,
        "dataset": split.entry.name,
        "split": split.name,
        "rows": len(split),
        "device": device,
        "seed": args.seed,
        "seconds": seconds,
        "command": args.command,
    }, report
