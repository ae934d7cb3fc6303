"""Check an experiment's file, print its resolved config, summarise or build its model.

    python parse_args.py --config experiment.yml

In Python, `parse_config(path)` gives the model's and the data sets' configs, `parse_experiment(path)` everything.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from data_manager.dataset_types import DatasetConfig
from model.model_types import ModelConfig
from model_factory.cli.validate import run
from model_factory.experiment.config import DATA_SECTIONS, MODEL_SECTIONS, SECTIONS, ExperimentConfig, read_experiment

EXAMPLES = """\
examples:
  python parse_args.py --config configs/full_experiment.yml
  python parse_args.py --config my.yml --set model.encoder.dropout=0.2 --print-config
  python parse_args.py --config my.yml --summary --html my_model.html
  python parse_args.py --schema > configs/schema.json

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file, 4 build failed"""


def parse_config(path: str | os.PathLike[str]) -> tuple[ModelConfig | None, list[DatasetConfig] | None]:
    """Return the model's config and the data sets' configs of a file, each None if its section is absent.

    Raises ConfigError, which lists every problem of the file with its line.
    """
    config = parse_experiment(path)
    return config.model, config.datasets


def parse_experiment(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return all sections of a file, with `a.b=value` overrides; raises ConfigError like `parse_config`."""
    return read_experiment(path, overrides).config


def build_parser(prog: str = "parse_args.py") -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check an experiment's file completely, before anything is built.",
        epilog=EXAMPLES.replace("python parse_args.py", prog) if " " in prog else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="F", help="the experiment's YAML file")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--model-only", action="store_true", help="check only the section `model`")
    only.add_argument("--data-only", action="store_true", help="check only `global_config` and `datasets`")
    parser.add_argument(
        "--set",
        metavar="K=V",
        action="append",
        default=[],
        dest="overrides",
        help="override a config value: a.b.0.c=1e-4",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved file, each value with its origin"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: ok, errors, config")
    parser.add_argument("--schema", action="store_true", help="print a JSON Schema of the file, for editors")
    parser.add_argument(
        "--summary", action="store_true", help="parameters, memory and FLOPs, without allocating weights"
    )
    parser.add_argument("--html", metavar="FILE", help="with --summary: also write it as a page with pictures")
    parser.add_argument(
        "--build",
        action="store_true",
        help="build the model, run it forward once, and train one step where the data are there",
    )
    parser.add_argument(
        "--plugin", metavar="MODULE", action="append", default=[], help="import a module that registers custom types"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "parse_args.py") -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if not args.config and not args.schema:
        parser.error("give the file to check: --config experiment.yml")
    if args.html == "":
        parser.error("--html is empty; give it a file's name, or leave it out")
    if args.html and not args.summary:
        parser.error("--html goes with --summary")
    args.only = MODEL_SECTIONS if args.model_only else DATA_SECTIONS if args.data_only else SECTIONS
    return run(args, parser.error)


if __name__ == "__main__":
    sys.exit(main())
