"""Check an experiment's file, print its resolved config, summarise or build its model.

    python parse_args.py --config experiment.yml

In Python, `parse_config(path)` gives the model's and the data sets' configs, `parse_experiment(path)` everything.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from model_factory.yaml_config.process import begin_command

if __name__ == "__main__":
    begin_command()

from data_manager.dataset_types import DatasetConfig
from model.model_types import ModelConfig
from model_factory.experiment.config import ExperimentConfig, read_experiment

_COMMAND = "model_factory.cli.validate"
"""Module of the command line, found by name: a program that imports this file as a library does not import it."""


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
    """Build the parser of the command line."""
    parser: argparse.ArgumentParser = import_module(_COMMAND).build_parser(prog)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "parse_args.py") -> int:
    """Run the command line; return the exit code."""
    code: int = import_module(_COMMAND).main(argv, prog)
    return code


if __name__ == "__main__":
    sys.exit(main())
