"""Collect the warnings of lhotse's recipes, which log skipped files and continue."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    """Logging handler that collects warnings and adds the name of a missing file."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Store the message of one record."""
        message = record.getMessage()
        error = sys.exc_info()[1]  # prepare_timit logs "No such file or directory" without the file name
        name = getattr(error, "filename", None)
        self.found.append(f"{message}: {name}" if name and str(name) not in message else message)


@contextmanager
def collect_warnings(found: list[str]) -> Iterator[None]:
    """Collect the warnings of the root logger, which recipes use, instead of printing them."""
    root = logging.getLogger()
    before, collector = root.handlers[:], _Collector(found)
    root.handlers = [collector]
    try:
        yield
    finally:
        root.handlers = before
