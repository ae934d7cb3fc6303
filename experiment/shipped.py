"""The configs that come with the project, found from any folder by the names that they have in a checkout."""

import os
from os import PathLike
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def find_config(path: str | PathLike[str]) -> Path:
    """`path` where it is there; else the shipped file that `configs/...` names, where there is one."""
    given = Path(path)
    if os.path.exists(given) or given.is_absolute() or given.parts[:1] != (CONFIGS.name,):
        return given
    shipped = CONFIGS.joinpath(*given.parts[1:])
    if not os.path.isfile(shipped):  # False too for what no file can be named, where Path's own methods raise
        return given
    return shipped if shipped.resolve().is_relative_to(CONFIGS) else given
