"""`environment.json`: versions, machine and command of each session of a run."""

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


def read_sessions(path: Path) -> list[object]:
    """Read the earlier sessions, an empty list without a file; raise RunFolderError if the file is damaged."""
    if not path.is_file():
        return []
    held = read_json(path)
    found = held.get("sessions") if isinstance(held, dict) else None
    if not isinstance(found, list):
        raise RunFolderError(f"{path} does not hold a list of sessions; remove it, as nothing depends on it")
    return found


def describe_environment(device: str, world: int, step: int) -> dict[str, object]:
    """Describe the session that begins at `step` on `world` devices: versions, machine, command."""
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
    """Return the installed version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
