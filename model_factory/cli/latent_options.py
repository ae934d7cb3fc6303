"""Options of `generate.py` for interpolation and editing in latent space; no torch is imported."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

POINTS = 5
STRENGTH = 1.0
EXAMPLES = """\
  python generate.py --run runs/latent --interpolate "a dog runs" "two birds sleep today" --points 7
  python generate.py --run runs/latent --edit "a dog runs" --from "a bird sings" --to "two birds sing"
"""
ABOUT = """\
With a latent diffusion model, --interpolate decodes points on the straight line between the latents of two texts.
--edit moves the latent of a text by the difference between the mean latents of the --to and of the --from texts."""
_DRAWN = ("num_samples", "sampler", "steps", "length", "condition")


def add_move_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser."""
    parser.add_argument(
        "--interpolate", metavar=("A", "B"), nargs=2, help="latent diffusion: interpolate between two texts"
    )
    parser.add_argument(
        "--points",
        metavar="N",
        type=int,
        help=f"--interpolate: number of texts, both ends included (default: {POINTS})",
    )
    parser.add_argument(
        "--edit", metavar="TEXT", help="latent diffusion: text to edit, away from --from and towards --to"
    )
    for name in ("from", "to"):
        parser.add_argument(
            f"--{name}",
            metavar="TEXT",
            action="append",
            default=[],
            dest=f"{name}_texts",
            help=f"--edit: example text to move {'away from' if name == 'from' else 'towards'}; can be repeated",
        )
    parser.add_argument(
        "--strength",
        metavar="S",
        type=float,
        help="--edit: factor of the move, negative for the opposite direction (default: 1)",
    )


def selected_move(args: argparse.Namespace) -> str | None:
    """Return `--interpolate` or `--edit`, whichever is given, or None."""
    if args.interpolate is not None:
        return "--interpolate"
    return None if args.edit is None else "--edit"


def check_move_options(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    """Call `usage_error` where options do not fit together."""
    move = selected_move(args)
    if args.interpolate is not None and args.edit is not None:
        usage_error("--interpolate and --edit exclude each other; give one of the two")
    if move is not None:
        if args.prompt:
            usage_error(f"--prompt is for drawn latents, and {move} draws no latents; leave one of them out")
        for name in _DRAWN:
            if getattr(args, name) is not None:
                option = f"--{name.replace('_', '-')}"
                usage_error(f"{option} is for drawn samples, and {move} draws no latents; leave {option} out")
    _check_interpolation(args, usage_error)
    _check_edit(args, usage_error)


def _check_interpolation(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    if args.points is not None and args.interpolate is None:
        usage_error("--points is for --interpolate A B; add the two texts, or leave --points out")
    if args.points is not None and args.points < 2:
        usage_error(f"--points takes a number of at least 2, as both ends count; got {args.points}")
    if any(not text for text in args.interpolate or ()):
        usage_error("--interpolate has an empty text; give two texts that are not empty")


def _check_edit(args: argparse.Namespace, usage_error: Callable[[str], NoReturn]) -> None:
    examples = {"--from": args.from_texts, "--to": args.to_texts}
    if args.edit is None:
        given = [option for option, texts in examples.items() if texts]
        given += ["--strength"] if args.strength is not None else []
        if given:
            usage_error(f"{given[0]} is for --edit TEXT; add the text to edit, or leave {given[0]} out")
        return
    for option, texts in examples.items():
        if not texts:
            usage_error(f"--edit needs examples of the direction: {option} is missing; add {option} TEXT")
    for option, texts in {"--edit": [args.edit], **examples}.items():
        if any(not text for text in texts):
            usage_error(f"{option} is empty; give it text")
    if args.strength is not None and not math.isfinite(args.strength):
        usage_error(f"--strength takes a number such as 1 or -0.5; got {args.strength}")


def run_move(args: argparse.Namespace, run: "LoadedRun") -> dict[str, Any]:
    """Interpolate or edit as requested; return a dictionary for `--json`."""
    from model_factory.evaluation.sampling.latent import edit, interpolate

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
    request = {"text": args.edit, "from": args.from_texts, "to": args.to_texts, "strength": strength}
    return {"edit": request | {"rebuilt": rebuilt, "edited": edited}, "notes": found.notes}


def format_move(result: dict[str, Any]) -> list[str]:
    """Format the result of `run_move` for the terminal, one text per line."""
    if "points" in result:
        return [f"{point['share']:.2f}  {_one_line(point['text'])}" for point in result["points"]]
    found = result["edit"]
    return [f"{name:<8} {_one_line(found[key])}" for name, key in (("rebuilt", "rebuilt"), ("edited", "edited"))]


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
