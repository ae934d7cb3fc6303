"""Weights of a network to a safetensors file and back, by the names of its own state dict."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from model.checkpoint import CheckpointError, assign, named_tensors, read_tensors, save_tensors
from training.errors import RunFolderError

WEIGHTS = "model.safetensors"


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape, each with memory of its own; OSError or SafetensorError where the disk refuses."""
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_tensors(path, own)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a file, of any shape, on the CPU; raises RunFolderError where it is missing or damaged."""
    if not path.is_file():
        raise RunFolderError(f"{path} is not there")
    try:
        return read_tensors(path)
    except CheckpointError as error:
        raise RunFolderError(str(error)) from error


def load_weights(network: nn.Module, path: Path, source: str) -> None:
    """Put a file's tensors into a network; raises RunFolderError where names or shapes differ from `source`'s."""
    try:
        assign(network, read_weights(path), f"{path} does not fit the model of {source}")
    except CheckpointError as error:
        raise RunFolderError(str(error)) from error


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a network, of any shape, tied ones once."""
    return named_tensors(network)
