"""`environment.json`: versions, machine and command of each session of a run."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from pydantic import BaseModel

from model.device import DeviceError
from model_factory.experiment.training_types import LOGGERS, TrainingConfig
from model_factory.training.distributed import world_size
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.run.checkpoints import read_json

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


def first_step(session: object) -> int:
    """Return the step from which a session of `environment.json` trained."""
    step = session.get("from_step") if isinstance(session, dict) else None
    return step if type(step) is int else 0


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
        "packages": {name: found for name in PACKAGES if (found := package_version(name)) is not None},
    }


def package_version(package: str) -> str | None:
    """Return the installed version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Checks that optional libraries are installed if a `training` section needs them.


def check_extras(settings: TrainingConfig) -> None:
    """Raise UnfitError, with the extra to install, for a key of `training` whose library is missing."""
    for logger in settings.loggers:
        if all(find_spec(module) is None for module in LOGGERS[logger]):
            raise UnfitError(_message(f"report_to: {logger}", logger))
    if settings.lora is not None and find_spec("peft") is None:
        raise UnfitError(_message("lora", "peft"))


def set_logger_variables(settings: TrainingConfig, run: Path) -> None:
    """Set the environment variables that wandb reads, unless they are set: its folder, project and tags."""
    os.environ.setdefault("WANDB_DIR", str(run))  # its files belong in the run folder
    if settings.project is not None:
        os.environ.setdefault("WANDB_PROJECT", settings.project)
    if settings.tags:
        os.environ.setdefault("WANDB_TAGS", ",".join(settings.tags))


def _message(key: str, extra: str) -> str:
    return f"training.{key} needs the extra {extra!r}, which is not installed: pip install 'model-factory[{extra}]'"


# Checks that this machine supports a `training` section, made before anything is loaded.


def check_machine(settings: TrainingConfig, *, use_cpu: bool) -> None:
    """Raise UnfitError for a precision or sharding that the available devices do not support."""
    if settings.fsdp and world_size() == 1:
        raise UnfitError(
            "training.fsdp shards a model over several processes, and there is one; start it with "
            "torchrun --nproc-per-node=N train.py ..."
        )
    if settings.fp16 and use_cpu:
        raise UnfitError("training.fp16 needs a GPU; on a CPU, bf16: true works")
    if settings.bf16 and not use_cpu and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise UnfitError("training.bf16: this GPU has no bfloat16; fp16: true works")


VISIBLE = "CUDA_VISIBLE_DEVICES"


def show_only_gpu(index: int) -> None:
    """Make GPU `index` of the visible ones the only visible one; call it before CUDA is initialised.

    Raises DeviceError, which lists what is there, for an index without a GPU.
    """
    before = os.environ.get(VISIBLE)
    count = torch.cuda.device_count()  # reads the variable, and does not initialise CUDA
    if index >= count:
        gpus = [f"GPU {number}" for number in range(count)]
        limit = "" if before is None else f" ({VISIBLE} is {before!r})"
        raise DeviceError(f"--gpu {index}: there is no such GPU; available: {', '.join(['cpu', *gpus])}{limit}")
    os.environ[VISIBLE] = before.split(",")[index] if before else str(index)


def is_on_cpu(config: object) -> bool:
    """Return True if a model's config selects the CPU, or this machine has no accelerator."""
    return not torch.accelerator.is_available() or "cpu" in _devices(config)


def _devices(config: object) -> set[str]:
    """Collect every `device` in a config, at any depth."""
    if not isinstance(config, BaseModel):
        return set()
    found: set[str] = set()
    for name in type(config).model_fields:
        value = getattr(config, name)
        found |= {value} if name == "device" else _devices(value)
    return found
