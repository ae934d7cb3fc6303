"""The command of transformers with our classes: `python -m model_factory.interop.hf serve exported`."""

from transformers.cli.transformers import app

import model_factory.interop.hf  # noqa: F401  # registers our classes

if __name__ == "__main__":
    app(prog_name="python -m model_factory.interop.hf")
