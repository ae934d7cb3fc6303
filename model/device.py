"""Devices by name: `auto`, `cpu`, `cuda:1`."""

import torch

from model_factory.yaml_config.exit_codes import USAGE


class DeviceError(ValueError):
    """A device that this machine lacks; the message lists the available ones."""

    exit_code = USAGE


def available_devices() -> list[str]:
    """List the names of the available devices, cpu first: `["cpu", "cuda:0", "cuda:1"]`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    if accelerator.type == "mps":  # there is only one, and its name has no index
        return ["cpu", "mps"]
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]


def resolve_device(name: str) -> torch.device:
    """Return the device `name`; `auto` is the accelerator if there is one, else cpu.

    `cuda` without an index is the current device of the process, which differs by rank under `torchrun`.
    Raises DeviceError for a device that this machine lacks.
    """
    known = available_devices()
    if name == "auto":
        return torch.device(known[-1].partition(":")[0])
    if name not in known and f"{name}:0" not in known:
        raise DeviceError(f"device {name!r} is not on this machine; available: {', '.join(known)}; try device: auto")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Describe a device for a message: `cpu (4 threads)`, `cuda:0 (NVIDIA H200)`."""
    if device.type == "cpu":
        count = torch.get_num_threads()
        return f"cpu ({count} thread{'s' if count != 1 else ''})"
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
