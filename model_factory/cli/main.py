"""`model-factory validate | train | generate | evaluate`: the commands of the installed package."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version

from model_factory.yaml_config.registry import closest

VERBS = {
    "validate": ("parse_args", "check an experiment's file, summarise or build its model"),
    "train": ("model_factory.cli.train", "train the model of a file, or resume its training"),
    "generate": ("model_factory.cli.generate", "generate text from a trained run"),
    "evaluate": ("model_factory.cli.evaluate", "evaluate a trained run on a split of its data"),
}
_LINES = "\n".join(f"  {verb:<10} {meaning}" for verb, (_, meaning) in VERBS.items())
HELP = f"""\
usage: model-factory VERB [options]

One YAML file describes an experiment; the verbs do everything with it.

{_LINES}

model-factory VERB --help lists the options of a verb.

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 failed"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb with the rest of the command line; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if words and words[0] == "--version":
        print(f"model-factory {version('model-factory')}")
        return 0
    if not words or words[0] not in VERBS:
        given = f"there is no verb {words[0]!r}; " if words else "give a verb: "
        print(f"model-factory: {given}{_hint(words)}", file=sys.stderr)
        return 2
    run: Callable[[Sequence[str], str], int] = import_module(VERBS[words[0]][0]).main
    return run(words[1:], f"model-factory {words[0]}")


def _hint(words: Sequence[str]) -> str:
    near = closest(words[0], list(VERBS)) if words else None
    return f"did you mean {near!r}?" if near else ", ".join(VERBS)


if __name__ == "__main__":
    sys.exit(main())
