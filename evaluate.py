"""Evaluate a trained run on a split of its data, and its samples: each figure has a confidence interval.

    python evaluate.py --run runs/first --split test

All options are defined in `model_factory.cli.evaluate`, which `model-factory evaluate` calls too.
"""

import sys

from model_factory.yaml_config.process import begin_command

if __name__ == "__main__":
    begin_command()

from model_factory.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
