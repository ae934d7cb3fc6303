"""`environment.json`: what each session of a run ran with."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from training.checkpoints import read_json
from training.errors import RunFolderError

PACKAGES = (
    *("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "pydantic"),
    *("performer-pytorch", "lhotse", "peft"),
)


def sessions(path: Path) -> list[object]:
    """What each session so far ran with, none where there is no file; raises RunFolderError for a damaged one."""
    if not path.is_file():
        return []
    held = read_json(path)
    found = held.get("sessions") if isinstance(held, dict) else None
    if not isinstance(found, list):
        raise RunFolderError(f"{path} does not hold a list of sessions; remove it, as it decides nothing")
    return found


def describe_environment(device: str, world: int, step: int) -> dict[str, object]:
    """Versions, machine and command of the session that begins at `step` on `world` devices."""
    import torch

    cuda = torch.cuda.is_available() and device.startswith("cuda")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": step,
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "processes": world,
        "device": torch.cuda.get_device_name() if cuda else device,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
