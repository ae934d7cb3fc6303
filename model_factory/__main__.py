"""Run `python -m model_factory VERB`: the same verbs as the installed command `model-factory`."""

import sys

from model_factory.yaml_config.process import begin_command

if __name__ == "__main__":
    begin_command()

from model_factory.cli.main import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m model_factory"))
