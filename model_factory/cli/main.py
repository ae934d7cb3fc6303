"""`model-factory VERB` and `python -m model_factory VERB`: find the verb and run it."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version

from model_factory.yaml_config.process import begin_command
from model_factory.yaml_config.registry import closest

VERBS = {
    "validate": "check an experiment's file, summarise or build its model",
    "train": "train the model of a file, or resume its training",
    "generate": "generate text from a trained run",
    "evaluate": "evaluate a trained run on a split of its data",
    "sweep": "train a run for each point of a grid, or for each trial of an Optuna search",
    "serve": "serve a trained run over HTTP, for OpenAI's clients and a browser",
    "import": "make a run folder of a published diffusion model",
    "export": "write a trained run for transformers, torch.export or ONNX",
    "push": "upload an exported folder to the Hugging Face hub",
    "pull": "download a model from the Hugging Face hub, pinned to a commit",
    "lm-eval": "evaluate a run on tasks of lm-evaluation-harness",
    "compare": "print a table of runs, with means over seeds",
    "data": "load the data sets of a file and summarise them, or list what is available",
    "demo": "check, train, generate and evaluate on a corpus that comes with Python",
}
"""Meaning of each verb; `module_of` names its module."""
_PLACES = {
    "import": "import_run",
    "lm-eval": "exchange.lm_eval",
    **{verb: f"exchange.{verb}" for verb in ("export", "push", "pull")},
}
"""Modules of verbs below `model_factory.cli` that have another name or are in a folder."""
HELP = """\
usage: {prog} VERB [options]

One YAML file describes an experiment; the verbs do everything with it.

{lines}

{prog} VERB --help lists the options of a verb.

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 failed, 130 interrupted"""


def main(argv: Sequence[str] | None = None, prog: str = "model-factory") -> int:
    """Run one verb with the rest of the command line; return the exit code."""
    if argv is None:
        begin_command()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {verb:<10} {meaning}" for verb, meaning in VERBS.items())
        print(HELP.format(prog=prog, lines=lines))
        return 0
    if words and words[0] == "--version":
        print(f"model-factory {version('model-factory')}")
        return 0
    if not words or words[0] not in VERBS:
        given = f"there is no verb {words[0]!r}; " if words else "give a verb: "
        print(f"{prog}: {given}{_hint(words)}", file=sys.stderr)
        return 2
    run: Callable[[Sequence[str], str], int] = import_module(module_of(words[0])).main
    return run(words[1:], f"{prog} {words[0]}")


def module_of(verb: str) -> str:
    """Return the name of a verb's module, which has `main` and `build_parser`."""
    return f"model_factory.cli.{_PLACES.get(verb, verb)}"


def _hint(words: Sequence[str]) -> str:
    near = closest(words[0], list(VERBS)) if words else None
    return f"did you mean {near!r}?" if near else ", ".join(VERBS)


if __name__ == "__main__":
    sys.exit(main())
