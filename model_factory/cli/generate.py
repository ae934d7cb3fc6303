"""Command line of `generate.py`: find the run, draw samples, print them, return the exit code."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.progress import progress_bar
from model_factory.cli.chat_options import EXAMPLES as CHAT
from model_factory.cli.chat_options import add_chat_option, check_chat_option, run_chat
from model_factory.cli.latent_options import (
    ABOUT,
    add_move_options,
    check_move_options,
    format_move,
    run_move,
    selected_move,
)
from model_factory.cli.latent_options import EXAMPLES as MOVES
from model_factory.cli.line_options import EXAMPLES as LINES
from model_factory.cli.line_options import add_line_options, check_line_options, write_lines
from model_factory.cli.options import CODES, add_sampling_options, build_verb_parser
from model_factory.cli.run_command import announce_device, run_on_folder
from model_factory.yaml_config.errors import escape_controls

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

EXAMPLES = f"""\
examples:
  python generate.py                                    four samples from the newest run below ./runs
  python generate.py --run runs/shakespeare --prompt "To be" --set generation.temperature=0.7
  python generate.py --run runs/en_de --prompt "two dogs play in the snow ." --set generation.num_beams=4
  python generate.py --run runs/mdlm --sampler first_hitting --steps 64 --num-samples 8 --json
  python generate.py --run runs/mdlm --prompt "The [[20]] of the city[[]]."
{LINES}
{CHAT}
{MOVES}
A decoder continues the prompt, and a translator translates it. A diffusion model keeps it at the start of the sample:
[[N]] is a hole of N tokens to fill in, and [[]] a hole that takes the rest of the sample's length; [[*]] is a hole of unknown
length, for runs whose data set has infill. A run on rows with responses writes the response to the prompt. A latent diffusion
model draws a latent for each text, and its decoder continues the prompt.

{ABOUT}

{CODES}"""


def build_parser(prog: str = "generate.py") -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script="python generate.py",
        description="Sample texts from a trained run; its folder is all that is needed, and it can be moved.",
        examples=EXAMPLES,
        shared=("run", "set", "plugin", "json"),
    )
    add_sampling_options(parser)
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        default=[],
        help="text to continue, to translate or to respond to; can be repeated",
    )
    parser.add_argument("--length", metavar="N", type=int, help="diffusion models: number of tokens per sample")
    parser.add_argument("--condition", metavar="C", help="conditional models: a class, or numbers as in 0.1,2.5")
    add_line_options(parser)
    add_chat_option(parser)
    add_move_options(parser)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "generate.py") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if any(not prompt for prompt in args.prompt):
        parser.error("--prompt is empty; give it text, or leave it out")
    if args.length is not None and args.length < 1:
        parser.error(f"--length takes a number of tokens of at least 1; got {args.length}")
    check_move_options(args, parser.error)
    check_line_options(args, parser.error)
    check_chat_option(args, parser.error)
    if args.input or args.chat:
        work = run_chat if args.chat else write_lines
        return run_on_folder(
            args,
            parser.error,
            lambda folder, overrides: work(args, folder, overrides),
            lambda _, code: code,
        )
    return run_on_folder(
        args,
        parser.error,
        lambda folder, overrides: _draw(args, folder, overrides),
        lambda _, result: _print(result, args.json),
    )


def _draw(args: argparse.Namespace, folder: Path, overrides: list[str]) -> dict[str, Any]:
    from model_factory.evaluation.run import open_run

    run = open_run(folder, overrides, device=args.device)
    device = announce_device(run)
    start = time.perf_counter()
    found = _samples(args, run) if selected_move(args) is None else run_move(args, run)
    return {
        "ok": True,
        "errors": [],
        "run": str(folder),
        "model": run.config.model.name if run.config.model else None,
        "task": run.task_name,
        "device": device,
        "seed": args.seed,
        "generation": run.generation.model_dump(mode="json"),
        "seconds": round(time.perf_counter() - start, 3),
        **found,
        "notes": [*run.notes, *found["notes"]],
    }


def _samples(args: argparse.Namespace, run: "LoadedRun") -> dict[str, Any]:
    from model_factory.evaluation.sampling.draw import draw
    from model_factory.evaluation.sampling.sample import Request

    request = Request(tuple(args.prompt), args.seed, args.length, args.condition)
    with progress_bar("samples", run.generation.num_samples * max(1, len(args.prompt))) as track:
        found = draw(run, request, track)
    return {"samples": [_plain(sample) for sample in found.samples], "notes": found.notes}


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    for note in result["notes"]:
        print(escape_controls(f"note: {note}"), file=sys.stderr)
    if "samples" not in result:
        print(escape_controls("\n".join(format_move(result))))
        return
    for number, sample in enumerate(result["samples"], 1):
        prompt = sample["prompt"]
        print(f"--- {number}" + ("" if prompt is None else f"  {prompt!r}"))
        print(escape_controls(sample["text"]))


def _plain(sample: Any) -> dict[str, Any]:
    counts = {"num_tokens": len(sample.tokens), "network_calls": sample.network_calls}
    return {"prompt": sample.prompt, "text": sample.text, **counts}
