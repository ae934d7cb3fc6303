"""Generate texts from a trained run: samples, continuations, translations.

    python generate.py --run runs/first --prompt "To be"

All options are defined in `evaluation.generate_command`, which `model-factory generate` calls too.
"""

import sys

from evaluation.generate_command import main

if __name__ == "__main__":
    sys.exit(main())
