"""Command line of `model-factory pull`: download a model from the Hugging Face hub."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import report_error, run_verb
from model_factory.interop.hub_transfer import pull
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.exit_codes import GOOD

EXAMPLES = f"""\
examples:
  model-factory pull --from owner/name@COMMIT --output models/name
  model-factory pull --from owner/name --output models/name          the newest commit, which is printed

Code and pickles of a repository are not downloaded. pulled.json in the folder names the commit.

{CODES}"""


def build_parser(prog: str = "model-factory pull") -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script="model-factory pull",
        description="Download a model from the Hugging Face hub into a folder, at one commit.",
        examples=EXAMPLES,
        shared=("json",),
    )
    parser.add_argument("--from", metavar="NAME", required=True, dest="source", help="owner/name[@revision]")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder to write; must be new or empty")
    parser.set_defaults(overrides=[], plugin=[])
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory pull") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    return run_verb(args, parser.error, lambda: _pull(args))


def _pull(args: argparse.Namespace) -> int:
    try:
        found = pull(args.source, Path(args.output))
    except Exception as error:
        return report_error(error, args.source, args.json)
    name = args.source.partition("@")[0]
    notes = [] if found.is_pinned else [f"this is the newest commit now; pin it: --from {name}@{found.revision}"]
    if args.json:
        result = {"ok": True, "errors": [], "output": str(found.folder), "revision": found.revision, "notes": notes}
        print(json.dumps(result, indent=2))
        return GOOD
    print(escape_controls(f"{found.folder}: {name}@{found.revision}"))
    for note in notes:
        print(escape_controls(f"note: {note}"), file=sys.stderr)
    return GOOD


if __name__ == "__main__":
    sys.exit(main())
