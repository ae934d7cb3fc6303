"""Options and settings of the test suite: every test runs offline and on one thread."""

import os

import pytest
from hypothesis import settings

from tests.processes import no_process_is_left as no_process_is_left
from tests.processes import processes_end_with_their_test as processes_end_with_their_test

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
settings.register_profile("project", deadline=None)  # no deadline: durations depend on the machine
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected messages in tests/golden")
