"""Run the tests of the model factory's public API: `python test_model_factory.py`, the same as in `tests/`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parent / "tests" / "test_model_factory.py"), run_name="__main__")
