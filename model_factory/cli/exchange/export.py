"""Command line of `model-factory export`: write a trained run for other programs."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import run_on_folder
from model_factory.yaml_config.errors import escape_controls

FORMATS = ("hf", "torch", "onnx")
EXAMPLES = f"""\
examples:
  model-factory export --run runs/shakespeare --format hf --output exported
  model-factory export --run runs/shakespeare --format onnx --output graph --license mit
  model-factory evaluate --run runs/mdlm --json > figures.json
  model-factory export --run runs/mdlm --format hf --output exported --license mit --evaluation figures.json

hf is a folder for from_pretrained of transformers, after `import model_factory.interop.hf`; a pretrained backbone goes
back to its own class, which needs no import. torch is a graph of torch.export (model.pt2), onnx one for onnxruntime
(model.onnx, the extra onnx), both with dynamic batch and length. Each folder has a model card and the tokenizer. What is written is compared with the run before the folder appears.

{CODES}"""


def build_parser(prog: str = "model-factory export") -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script="model-factory export",
        description="Export a trained run: the folder of a format that other programs read.",
        examples=EXAMPLES,
        shared=("run", "plugin", "json"),
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder to write; must be new or empty")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence for the card, such as apache-2.0 (default: an imported model's, if stated)",
    )
    parser.add_argument(
        "--evaluation",
        metavar="FILE",
        action="append",
        default=[],
        help="figures for the card, written by model-factory evaluate --run RUN --json > FILE; can be repeated",
    )
    parser.set_defaults(overrides=[], num_samples=None, sampler=None, steps=None)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory export") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    return run_on_folder(
        args, parser.error, lambda folder, _: _export(args, folder), lambda _, result: _print(result, args.json)
    )


def _export(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from model_factory.evaluation.run import open_run
    from model_factory.interop.export.folder import describe_size, export_run

    run = open_run(folder, device="cpu")
    reports = [Path(name) for name in args.evaluation]
    found = export_run(run, Path(args.output), args.format, licence=args.license, evaluations=reports)
    return {
        "ok": True,
        "errors": [],
        "run": str(folder),
        "format": args.format,
        "output": str(found.folder),
        "size": describe_size(found.folder),
        **found.facts,
        "notes": found.notes,
    }


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(escape_controls(f"{result['output']}: exported from {result['run']} ({result['size']})"))
    facts = {name: text for name, text in result.items() if name not in _HEAD}
    width = max(map(len, facts))
    for name, text in facts.items():
        print(escape_controls(f"  {name:<{width}}  {text}"))
    for note in result["notes"]:
        print(escape_controls(f"note: {note}"), file=sys.stderr)


_HEAD = ("ok", "errors", "run", "format", "output", "size", "notes")


if __name__ == "__main__":
    sys.exit(main())
