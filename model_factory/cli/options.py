"""Parser of a verb: options that several verbs share, in one table; no torch is imported."""

import argparse
from collections.abc import Sequence
from typing import Any

CODES = "exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 failed, 130 interrupted"
SHARED: dict[str, dict[str, Any]] = {
    "config": {"metavar": "F", "help": "the experiment's YAML file"},
    "run": {"metavar": "RUN", "help": "run folder (default: the newest below ./runs)"},
    "set": {
        "metavar": "K=V",
        "action": "append",
        "default": [],
        "dest": "overrides",
        "help": "override a config value: a.b.0.c=1e-4; can be repeated",
    },
    "plugin": {
        "metavar": "MODULE",
        "action": "append",
        "default": [],
        "help": "import a module that registers custom types; can be repeated",
    },
    "json": {"action": "store_true", "help": "print one JSON object with ok, errors and the results"},
}
"""Options that several verbs share, by name, with the arguments of `add_argument`."""


def build_verb_parser(
    prog: str,
    *,
    script: str,
    description: str,
    examples: str,
    shared: Sequence[str] = ("config", "set", "plugin"),
    required: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Build the parser of a verb with its shared options.

    Arguments:
        prog: name of the program in its help, such as `train.py` or `model-factory train`.
        script: how `examples` call the program: `python train.py`. A `prog` of two or more words replaces it.
        description: one sentence about the verb.
        examples: end of the help: examples and exit codes.
        shared: names of the options of `SHARED` that the verb takes.
        required: names of those that must be given.
    """
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples.replace(script, prog) if " " in prog else examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_shared_parser(shared, required)],
    )


def _shared_parser(names: Sequence[str], required: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parent parser, which has only the named options."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        option = SHARED[name] | ({"required": True} if name in required else {})
        parser.add_argument(f"--{name}", **option)
    return parser


FLAGS = {"num_samples": "--num-samples", "sampler": "--sampler", "steps": "--steps"}
"""Options of generate and evaluate that set keys of the section `generation`."""


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of generate and evaluate that are about samples."""
    parser.add_argument(
        "--num-samples", metavar="N", help="number of samples (default: the run's generation.num_samples)"
    )
    parser.add_argument(
        "--sampler", metavar="S", help="diffusion models: sampler; a name, or {type: NAME, SETTING: VALUE}"
    )
    parser.add_argument("--steps", metavar="K", help="diffusion models: number of sampling steps")
    parser.add_argument("--seed", metavar="N", type=_seed, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ... (default: the device of the run's config)")


def _seed(text: str) -> int:
    seed = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to {2**32 - 1}; got {text!r}")
    return seed


def collect_overrides(args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Collect config overrides and the command-line option that each came from."""
    flags = {
        f"generation.{name}={value}": f"{flag} {value}"
        for name, flag in FLAGS.items()
        if (value := getattr(args, name)) is not None
    }
    return [*args.overrides, *flags], flags
