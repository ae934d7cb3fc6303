"""Options of `generate.py` that move through the latents of a latent diffusion model; no torch is imported."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from evaluation.opened import LoadedRun

POINTS = 5
STRENGTH = 1.0
EXAMPLES = """\
  python generate.py --run runs/latent --interpolate "a dog runs" "two birds sleep today" --points 7
  python generate.py --run runs/latent --edit "a dog runs" --from "a bird sings" --to "two birds sing"
"""
ABOUT = """\
Of a latent diffusion model, --interpolate prints the texts on the straight line between the latents of two texts, and
--edit a text whose latent was moved by the difference between the mean latents of the --to and of the --from texts."""
_DRAWN = ("num_samples", "sampler", "steps", "length", "condition")


def add_move_options(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "--interpolate", metavar=("A", "B"), nargs=2, help="of latent diffusion: texts between two texts, these rebuilt"
    )
    parser.add_argument(
        "--points", metavar="N", type=int, help=f"of --interpolate: how many texts, ends included (default: {POINTS})"
    )
    parser.add_argument("--edit", metavar="TEXT", help="of latent diffusion: a text to move from --from to --to")
    for name in ("from", "to"):
        parser.add_argument(
            f"--{name}",
            metavar="TEXT",
            action="append",
            default=[],
            dest=f"{name}_texts",
            help=f"of --edit: a text that the move leads {name}; can be repeated",
        )
    parser.add_argument(
        "--strength",
        metavar="S",
        type=float,
        help="of --edit: how far to move, negative being backwards (default: 1)",
    )


def selected_move(args: argparse.Namespace) -> str | None:
    """`--interpolate` or `--edit`, whichever is asked for."""
    if args.interpolate is not None:
        return "--interpolate"
    return None if args.edit is None else "--edit"


def check_move_options(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    """End with code 2 where options do not go together."""
    move = selected_move(args)
    if args.interpolate is not None and args.edit is not None:
        usage_error("--interpolate and --edit are two commands; give one of them")
    if move is not None:
        if args.prompt:
            usage_error(f"--prompt begins texts of drawn latents, and {move} draws none; leave one of them out")
        for name in _DRAWN:
            if getattr(args, name) is not None:
                option = f"--{name.replace('_', '-')}"
                usage_error(f"{option} is of drawn samples, and {move} draws no latents; leave {option} out")
    _check_interpolation(args, usage_error)
    _check_edit(args, usage_error)


def _check_interpolation(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    if args.points is not None and args.interpolate is None:
        usage_error("--points is of --interpolate A B; add the two texts, or leave --points out")
    if args.points is not None and args.points < 2:
        usage_error(f"--points takes a number from 2 on, as both ends are among them; got {args.points}")
    if any(not text for text in args.interpolate or ()):
        usage_error("--interpolate has an empty text; give it two texts that are none")


def _check_edit(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    examples = {"--from": args.from_texts, "--to": args.to_texts}
    if args.edit is None:
        given = [option for option, texts in examples.items() if texts]
        given += ["--strength"] if args.strength is not None else []
        if given:
            usage_error(f"{given[0]} is of --edit TEXT; add the text to move, or leave {given[0]} out")
        return
    for option, texts in examples.items():
        if not texts:
            usage_error(f"--edit needs examples of where to move: {option} is missing; add {option} TEXT")
    for option, texts in {"--edit": [args.edit], **examples}.items():
        if any(not text for text in texts):
            usage_error(f"{option} is empty; give it text")
    if args.strength is not None and not math.isfinite(args.strength):
        usage_error(f"--strength takes a number such as 1 or -0.5; got {args.strength}")


def run_move(args: argparse.Namespace, run: "LoadedRun") -> dict[str, Any]:
    """What the command makes of a run: plain, for `--json`."""
    from evaluation.latent_moves import edit, interpolate

    if args.interpolate is not None:
        first, last = args.interpolate
        shares, found = interpolate(run, first, last, args.points or POINTS, args.seed)
        points = [
            {"share": share, "text": sample.text, "num_tokens": len(sample.tokens)}
            for share, sample in zip(shares, found.samples, strict=True)
        ]
        return {"interpolate": args.interpolate, "points": points, "notes": found.notes}
    strength = STRENGTH if args.strength is None else args.strength
    found = edit(run, args.edit, args.from_texts, args.to_texts, strength, args.seed)
    rebuilt, edited = (sample.text for sample in found.samples)
    asked = {"text": args.edit, "from": args.from_texts, "to": args.to_texts, "strength": strength}
    return {"edit": asked | {"rebuilt": rebuilt, "edited": edited}, "notes": found.notes}


def format_move(result: dict[str, Any]) -> list[str]:
    """`moved`'s answer for the terminal, a text a line."""
    if "points" in result:
        return [f"{point['share']:.2f}  {_one_line(point['text'])}" for point in result["points"]]
    found = result["edit"]
    return [f"{name:<8} {_one_line(found[key])}" for name, key in (("rebuilt", "rebuilt"), ("edited", "edited"))]


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
