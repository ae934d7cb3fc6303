"""Generate texts from a trained run: samples, continuations, translations.

    python generate.py --run runs/first --prompt "To be"

All options are defined in `model_factory.cli.generate`, which `model-factory generate` calls too.
"""

import sys

from model_factory.yaml_config.process import begin_command

if __name__ == "__main__":
    begin_command()

from model_factory.cli.generate import main

if __name__ == "__main__":
    sys.exit(main())
