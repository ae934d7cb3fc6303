"""Reading and writing of a network's weights as safetensors, by the names of its state dict."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from model.checkpoint import CheckpointError, TensorFile, assign_tensors, named_tensors, read_tensors, save_tensors
from model_factory.training.errors import RunFolderError, TrainingError

WEIGHTS = "model.safetensors"


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape, each copied to its own storage; raise OSError or SafetensorError if the disk is full."""
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_tensors(path, own)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU, each of any shape; raise RunFolderError if it is missing or damaged."""
    if not path.is_file():
        raise RunFolderError(f"{path} is not there")
    try:
        return read_tensors(path)
    except CheckpointError as error:
        raise RunFolderError(str(error)) from error


def load_weights(network: nn.Module, path: Path, source: str, misfit: type[TrainingError] = RunFolderError) -> None:
    """Load a file's tensors into a network.

    Raises RunFolderError if the file is missing or damaged, `misfit` if names or shapes differ from those of `source`.
    """
    if not path.is_file():
        raise RunFolderError(f"{path} is not there")
    try:
        tensors = TensorFile(path)
    except CheckpointError as error:
        raise RunFolderError(str(error)) from error
    try:
        assign_tensors(network, tensors, f"{path} does not fit the model of {source}")
    except CheckpointError as error:
        raise misfit(str(error)) from error


def named_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of a network by name, each of any shape, tied ones once."""
    return named_tensors(network)
