"""JSON that comes from a file, which may be anything."""

import json
from typing import Any


def from_json(text: str) -> Any:
    """What a JSON text says; ValueError for what is none, also where it is nested deeper than Python can follow."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
