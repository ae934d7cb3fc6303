"""Loading of full weights into a model that is sharded over processes (fully_shard)."""

from pathlib import Path

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, ValueType, set_model_state_dict

from training.errors import RunFolderError
from training.weights import read_weights


def load_sharded(module: nn.Module, path: Path) -> None:
    """Load each process's shard of the weights of a `TaskModule`; raise RunFolderError if they do not fit."""
    tensors: dict[str, ValueType] = {f"network.{name}": tensor for name, tensor in read_weights(path).items()}
    options = StateDictOptions(full_state_dict=True, strict=True)
    try:
        set_model_state_dict(module, tensors, options=options)
    except RuntimeError as error:
        raise RunFolderError(f"{path} does not fit the model of config.yml: {error}") from error
