"""Command line of `model-factory import`: make a run folder of a published diffusion model."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model.checkpoints.families import ADAPTED, AUTOREGRESSIVE, FAMILIES
from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import UsageError, report_error, run_verb
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.exit_codes import GOOD

EXAMPLES = f"""\
examples:
  model-factory import --from models/mdlm-owt --output runs/mdlm --tokenizer gpt2
  model-factory import --from kuleshov-group/mdlm-owt@COMMIT --output runs/mdlm --tokenizer gpt2
  model-factory import --from outputs/best.ckpt --output runs/own --allow-pickle --tokenizer models/gpt2
  model-factory generate --run runs/mdlm --prompt "The [[20]] of the city"
  model-factory evaluate --run runs/mdlm --data texts.txt

It reads SEDD, MDLM, BD3LM, UDLM, Duo, GIDD, LLaDA, LLaDA2, Dream, SDAR, DiffuGPT, DiffuLLaMA and a2d, and the
autoregressive baseline of MDLM as a decoder; it prints what it understood, and refuses what contradicts itself. No code
of a source is ever run.

{CODES}"""


def build_parser(prog: str = "model-factory import") -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = build_verb_parser(
        prog,
        script="model-factory import",
        description="Import a published diffusion model: its folder, checkpoint or name on the hub becomes a run folder.",
        examples=EXAMPLES,
        shared=("set", "plugin", "json"),
    )
    parser.add_argument(
        "--from", metavar="PLACE", required=True, dest="source", help="folder, checkpoint, or owner/name[@revision]"
    )
    parser.add_argument("--output", metavar="RUN", required=True, help="run folder to write; must be new or empty")
    parser.add_argument(
        "--tokenizer", metavar="T", help="folder, run or hub name of its tokenizer (default: the source's own, if any)"
    )
    parser.add_argument("--mask-id", metavar="N", type=int, help="token that is the mask (default: the family's)")
    parser.add_argument("--settings", metavar="F", help="config.json or config.yaml of the network, if not beside it")
    parser.add_argument(
        "--family",
        choices=(*FAMILIES, AUTOREGRESSIVE, *ADAPTED),
        help="family of a checkpoint whose config does not say it",
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read .bin, .ckpt, .pth and .pt: tensors only, nothing is run"
    )
    parser.add_argument("--no-ema", action="store_true", help="import the raw weights of a checkpoint with an average")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "model-factory import") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    return run(args, parser.error)


def run(args: argparse.Namespace, usage_error: UsageError) -> int:
    """Run the parsed options and return the exit code; `usage_error` ends the program with code 2."""

    def work() -> int:
        from model_factory.interop.import_run import Request, import_run

        request = Request(
            source=args.source,
            output=Path(args.output),
            tokenizer=args.tokenizer,
            mask_id=args.mask_id,
            settings=args.settings,
            family=args.family,
            allow_pickle=args.allow_pickle,
            use_average=not args.no_ema,
            overrides=tuple(args.overrides),
        )
        try:
            found = import_run(request)
        except Exception as error:
            return report_error(error, args.source, args.json)
        if args.json:
            result = {"ok": True, "errors": [], "run": str(found.folder), **dict(found.facts), "notes": found.notes}
            print(json.dumps(result, indent=2, ensure_ascii=False))
            return GOOD
        width = max(len(name) for name, _ in found.facts)
        lines = [f"  {name:<{width}}  {text}" for name, text in found.facts]
        print(escape_controls("\n".join([f"{found.folder}: imported from {args.source}", *lines])))
        for note in found.notes:
            print(escape_controls(f"note: {note}"))
        return GOOD

    return run_verb(args, usage_error, work)


if __name__ == "__main__":
    sys.exit(main())
