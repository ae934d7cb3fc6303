"""What a recipe says while it prepares a corpus: lhotse's recipes log what they leave out and go on."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    """Keeps warnings; where one is logged for a missing file, the file is named."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of one record."""
        message = record.getMessage()
        error = sys.exc_info()[1]  # prepare_timit logs "No such file or directory" and not which
        name = getattr(error, "filename", None)
        self.found.append(f"{message}: {name}" if name and str(name) not in message else message)


@contextmanager
def recipe_notes(found: list[str]) -> Iterator[None]:
    """Collect the warnings of the root logger, to which recipes write, instead of printing them."""
    root = logging.getLogger()
    before, collector = root.handlers[:], _Collector(found)
    root.handlers = [collector]
    try:
        yield
    finally:
        root.handlers = before
