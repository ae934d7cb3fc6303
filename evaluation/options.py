"""Options that generating and evaluating share, and where they lead; no torch is imported."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from yaml_config.overrides import split_override

FLAGS = {"num_samples": "--num-samples", "sampler": "--sampler", "steps": "--steps"}
"""Options that stand for keys of the section `generation`."""
_TEXTS = ("run", "num_samples", "sampler", "steps", "device", "condition", "split", "judge", "html")
CODES = "exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 failed"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    parser.add_argument("--run", metavar="RUN", help="the run's folder (default: the newest below ./runs)")
    parser.add_argument(
        "--num-samples", metavar="N", help="samples to draw (default: the run's generation.num_samples)"
    )
    parser.add_argument(
        "--sampler",
        metavar="S",
        help="of diffusion models: how noise becomes text; a name, or {type: NAME, SETTING: VALUE}",
    )
    parser.add_argument("--steps", metavar="K", help="of diffusion models: steps from noise to text")
    parser.add_argument("--seed", metavar="N", type=_seed, default=0, help="seed of all draws (default: %(default)s)")
    parser.add_argument(
        "--set", metavar="K=V", action="append", default=[], dest="overrides", help="lay a value on the run's file"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ... (default: the run's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON object: ok, errors and what was found")
    parser.add_argument(
        "--plugin", metavar="MODULE", action="append", default=[], help="import a module that registers your own types"
    )


def _seed(text: str) -> int:
    seed = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to {2**32 - 1}; got {text!r}")
    return seed


def collect_overrides(
    args: argparse.Namespace, usage_error: Callable[[str], NoReturn]
) -> tuple[list[str], dict[str, str]]:
    """What is laid on the run's file, and by which option a user wrote it."""
    for name in _TEXTS:
        if getattr(args, name, None) == "":
            usage_error(f"--{name.replace('_', '-')} is empty; give it a value, or leave it out")
    for option in args.overrides:
        try:
            split_override(option)
        except ValueError as error:
            usage_error(str(error))
    flags = {
        f"generation.{name}={value}": f"{flag} {value}"
        for name, flag in FLAGS.items()
        if (value := getattr(args, name)) is not None
    }
    return [*args.overrides, *flags], flags
