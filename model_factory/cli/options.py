"""Command-line options shared by generate and evaluate, and their config overrides; no torch is imported."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from model_factory.yaml_config.overrides import split_override

FLAGS = {"num_samples": "--num-samples", "sampler": "--sampler", "steps": "--steps"}
"""Options that set keys of the section `generation`."""
_TEXTS = ("run", "num_samples", "sampler", "steps", "device", "condition", "split", "judge", "html")
CODES = "exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 failed"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument("--run", metavar="RUN", help="run folder (default: the newest below ./runs)")
    parser.add_argument(
        "--num-samples", metavar="N", help="number of samples (default: the run's generation.num_samples)"
    )
    parser.add_argument(
        "--sampler",
        metavar="S",
        help="diffusion models: sampler; a name, or {type: NAME, SETTING: VALUE}",
    )
    parser.add_argument("--steps", metavar="K", help="diffusion models: number of sampling steps")
    parser.add_argument("--seed", metavar="N", type=_seed, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--set", metavar="K=V", action="append", default=[], dest="overrides", help="override a config value"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ... (default: the device of the run's config)")
    parser.add_argument("--json", action="store_true", help="print one JSON object with ok, errors and the results")
    parser.add_argument(
        "--plugin", metavar="MODULE", action="append", default=[], help="import a module that registers custom types"
    )


def _seed(text: str) -> int:
    seed = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to {2**32 - 1}; got {text!r}")
    return seed


def collect_overrides(
    args: argparse.Namespace, usage_error: Callable[[str], NoReturn]
) -> tuple[list[str], dict[str, str]]:
    """Collect config overrides and the command-line option that each came from."""
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
