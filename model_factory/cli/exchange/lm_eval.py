"""Command line of `model-factory lm-eval`: register runs with lm-evaluation-harness, and call its own command line."""

import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import report_error, run_verb
from model_factory.yaml_config.errors import escape_line
from model_factory.yaml_config.exit_codes import GOOD

ROOT = Path(__file__).resolve().parents[3]
"""The checkout, or site-packages."""
EXAMPLES = f"""\
examples:
  model-factory lm-eval --run runs/mine --tasks lambada_openai --batch_size 64
  model-factory lm-eval --run runs/mine --include_path tasks --tasks mine --limit 100 --output_path results --log_samples
  model-factory lm-eval --run runs/mdlm --tasks arc_easy --draws 32
  model-factory lm-eval --run runs/mdlm --tasks arc_easy --likelihood chain --model_args order=random,seed=1
All other options are those of `lm-eval run`, which `lm-eval run --help` lists; the model is set. Tasks of the harness are
downloaded from the hub; custom tasks are YAML files below --include_path.

{CODES}"""


def build_parser(prog: str = "model-factory lm-eval") -> ArgumentParser:
    """Build the parser of the options that are ours; the others are the harness's."""
    parser = build_verb_parser(
        prog,
        script="model-factory lm-eval",
        description="Evaluate a trained decoder or denoiser on tasks of lm-evaluation-harness.",
        examples=EXAMPLES,
        shared=("run", "set", "plugin"),
    )
    parser.allow_abbrev = False
    parser.add_argument(
        "--likelihood",
        choices=("bound", "chain"),
        help="denoisers: a bound with draws, or the chain rule along one order (default: bound)",
    )
    parser.add_argument("--draws", metavar="N", type=int, help="denoisers: draws of the bound (default: 128)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory lm-eval") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args, rest = parser.parse_known_args(argv)
    if find_spec("lm_eval") is None:
        parser.error("the extra 'eval' is not installed: pip install 'model-factory[eval]'")
    _parse_rest(rest)
    place = args.run or "runs"

    def work() -> int:
        nonlocal place
        from model_factory.evaluation.run import newest_run

        try:
            folder = Path(args.run) if args.run else newest_run()
            place = str(folder)
            if not args.run:
                print(escape_line(f"{folder}: the newest run"), file=sys.stderr)
            return _evaluate(_arguments(args, folder), rest)
        except Exception as error:
            return report_error(error, place, as_json=False)

    return run_verb(args, parser.error, work)


def _parse_rest(words: Sequence[str]) -> Namespace:
    """Parse options of the harness by its own parser, which ends the program with code 2 for an unknown one."""
    from lm_eval._cli import HarnessCLI

    sys.argv = ["lm-eval", "run", "--model", "model_factory", *words]
    found: Namespace = HarnessCLI().parse_args()
    return found


def _arguments(args: Namespace, folder: Path) -> dict[str, Any]:
    """Return the arguments of the model in the harness."""
    found = {"pretrained": str(folder), "overrides": args.overrides}
    found |= {"likelihood": args.likelihood, "draws": args.draws}
    return {name: value for name, value in found.items() if value not in (None, [])}


def _evaluate(arguments: dict[str, Any], rest: Sequence[str]) -> int:
    """Call the command line of the harness with our model and the other options.

    The harness keys cached answers by the request alone, so each run with its settings gets its own file.
    """
    put_checkout_last()
    from lm_eval.__main__ import cli_evaluate

    from model_factory.interop.harness_settings import HarnessSettings
    from model_factory.interop.lm_eval import BATCH  # registers the model

    given = _parse_rest(rest)
    if given.output_path and getattr(given, "log_samples", False):
        output = Path(given.output_path)
        folder = output.parent if output.suffix == ".json" else output
        arguments["log"] = str(folder / f"estimates_{time.strftime('%Y-%m-%dT%H-%M-%S')}.jsonl")
    model = arguments | (given.model_args or {})
    words = ["--batch_size", str(BATCH), "--device", "auto", *rest, "--model_args", json.dumps(model)]
    settings = HarnessSettings.parse(model)
    if given.use_cache:
        words += ["--use_cache", f"{given.use_cache}_{settings.identity()[:16]}"]
    _parse_rest(words)
    cli_evaluate()
    return GOOD


def put_checkout_last() -> None:
    """Move the checkout to the end of the module search path.

    Its `evaluate.py` would otherwise be imported instead of Hugging Face's package `evaluate`, from which the harness gets
    metrics. Our own packages are still found.
    """
    kept = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
    if not (ROOT / "evaluate.py").is_file() or len(kept) == len(sys.path):
        return
    sys.path[:] = [*kept, str(ROOT)]
    loaded = getattr(sys.modules.get("evaluate"), "__file__", None)
    if loaded is not None and Path(loaded).resolve().parent == ROOT:
        del sys.modules["evaluate"]


if __name__ == "__main__":
    sys.exit(main())
