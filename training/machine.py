"""Checks that this machine supports a `training` section, made before anything is loaded."""

import torch
from pydantic import BaseModel

from training.config_types import TrainingConfig
from training.distributed import world_size
from training.errors import UnfitError


def check_machine(settings: TrainingConfig, *, use_cpu: bool) -> None:
    """Raise UnfitError for a precision or sharding that the available devices do not support."""
    if settings.fsdp and use_cpu:
        raise UnfitError(
            "training.fsdp shards over GPUs, and this run is on a CPU, where the Trainer would silently keep whole "
            "copies (DDP) instead; leave fsdp out, or run on GPUs"
        )
    if settings.fsdp and world_size() == 1:
        raise UnfitError(
            "training.fsdp shards a model over several processes, and there is one; start it with "
            "torchrun --nproc-per-node=N train.py ..."
        )
    if settings.fp16 and use_cpu:
        raise UnfitError("training.fp16 needs a GPU; on a CPU, bf16: true works")
    if settings.bf16 and not use_cpu and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise UnfitError("training.bf16: this GPU has no bfloat16; fp16: true works")


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
