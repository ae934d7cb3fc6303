"""Command line of `model-factory push`: upload an exported folder to the Hugging Face hub."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import report_error, run_verb
from model_factory.interop.hub_transfer import plan_push, push
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.exit_codes import GOOD

EXAMPLES = f"""\
examples:
  model-factory push --folder exported --to owner/name           what would be uploaded; nothing is sent
  model-factory push --folder exported --to owner/name --yes     upload it, to a private repository if it is new

The token is that of `hf auth login`, or of HF_TOKEN. Files of a run folder that hold paths, host names or texts of its data
are left out unless --include names them.

{CODES}"""


def build_parser(prog: str = "model-factory push") -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script="model-factory push",
        description="Upload an exported folder to the Hugging Face hub; without --yes nothing is sent.",
        examples=EXAMPLES,
        shared=("json",),
    )
    parser.add_argument("--folder", metavar="DIR", required=True, help="folder to upload")
    parser.add_argument("--to", metavar="NAME", required=True, help="repository on the hub: owner/name")
    parser.add_argument("--yes", action="store_true", help="upload; without it, only say what would be uploaded")
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument(
        "--include",
        metavar="FILE",
        action="append",
        default=[],
        help="also upload a file that is left out; can be repeated",
    )
    parser.set_defaults(overrides=[], plugin=[])
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory push") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    return run_verb(args, parser.error, lambda: _push(args))


def _push(args: argparse.Namespace) -> int:
    try:
        plan = plan_push(Path(args.folder), args.to, include=args.include, public=args.public)
        if not args.json:
            print(escape_controls("\n".join(plan.lines())))
        commit = push(plan) if args.yes else None
    except Exception as error:
        return report_error(error, args.folder, args.json)
    if args.json:
        result = {"ok": True, "errors": [], "to": plan.target, "is_private": plan.is_private, "commit": commit}
        print(json.dumps({**result, "files": dict(plan.files), "left_out": plan.left_out}, indent=2))
    elif commit is None:
        print("nothing was sent; add --yes to upload")
    else:
        print(escape_controls(f"uploaded: {plan.target}@{commit}"))
    return GOOD


if __name__ == "__main__":
    sys.exit(main())
