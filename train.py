"""Train the experiment of a YAML file into a run folder; stop and resume at any moment.

    python train.py --config configs/full_experiment.yml --output runs/first

In Python, `model_factory.train(config, folder)` does the same, and `model_factory.load_run(folder)` loads the result.
"""

import sys

from model_factory.yaml_config.process import begin_command

if __name__ == "__main__":
    begin_command()

from model_factory.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
