"""From a device's name in a configuration to a `torch.device` that this machine has."""

import torch


class DeviceError(ValueError):
    """The asked device is not on this machine; the message names those that are."""


def available_devices() -> list[str]:
    """Names of the devices that a model can be built on here, cpu first: `["cpu", "cuda:0", "cuda:1"]`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    if accelerator.type == "mps":  # there is never a second one, and its name carries no index
        return ["cpu", "mps"]
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the accelerator if there is one, else cpu.

    `cuda` without an index stays so: it is the process's current device, which `torchrun` sets for each rank.
    Raises DeviceError for a device that this machine lacks.
    """
    known = available_devices()
    if name == "auto":
        return torch.device(known[-1].partition(":")[0])
    if name not in known and f"{name}:0" not in known:
        raise DeviceError(f"device {name!r} is not on this machine, which has {', '.join(known)}; device: auto fits")
    return torch.device(name)
