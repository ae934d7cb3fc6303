"""Find the packaged configs from any folder, by their names in a checkout."""

import os
from os import PathLike
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def find_config(path: str | PathLike[str]) -> Path:
    """Return `path` if it exists, else the packaged config of that name (`configs/...`) if there is one, else `path`."""
    given = Path(path)
    if os.path.exists(given) or given.is_absolute() or given.parts[:1] != (CONFIGS.name,):
        return given
    shipped = CONFIGS.joinpath(*given.parts[1:])
    if not os.path.isfile(shipped):  # also False for impossible names, for which Path's methods raise
        return given
    return shipped if shipped.resolve().is_relative_to(CONFIGS) else given
