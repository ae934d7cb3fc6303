"""FSDP: weights, gradients, moments and averages are shared out over processes by `fully_shard` (PyTorch FSDP, arXiv 2304.11277).

Each layer is one group, and everything else, embedding and head among it, is the group of the whole module: a loss that
reads the weights of the head inside the module's `forward` finds them whole. It runs over GPUs with NCCL, and over CPU
processes with gloo.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from model.activation_checkpointing import find_layers
from model.checkpoint import named_tensors
from model_factory.training.distributed import is_main, world_size
from model_factory.training.errors import RunFolderError, UnfitError
from model_factory.training.run.weights import read_weights

OPTIMIZER, SCHEDULE = "optimizer.bin", "scheduler.pt"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(module: nn.Module, network: nn.Module, *, bf16: bool) -> None:
    """Shard a module, and each layer of the network in it, over all processes; their weights must be equal.

    With `bf16` weights are gathered in bfloat16, and gradients are summed in float32. Weights without a dimension, which
    FSDP does not take, get one of size 1. Raises UnfitError for weights of several dtypes.
    """
    _unify(module, bf16=bf16)
    _add_dimensions(module)
    device = next(module.parameters()).device
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if bf16:
        # autocast casts what a layer computes with; its inputs, such as rotary angles, keep their digits
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (world_size(),)), "mp_policy": policy}
    for layer in reversed(layers_to_shard(network)):  # the innermost first
        fully_shard(layer, **options)
    fully_shard(module, **options)


def layers_to_shard(network: nn.Module) -> list[nn.Module]:
    """Return the layers that become separate groups: those that share no weight with other parts, as a tied head does."""
    owners: dict[int, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    heads = {id(table) for module in network.modules() for table in _tables(module)}

    def is_alone(layer: nn.Module) -> bool:
        own: dict[int, int] = {}
        for module in layer.modules():
            for parameter in module.parameters(recurse=False):
                own[id(parameter)] = own.get(id(parameter), 0) + 1
        return bool(own) and not own.keys() & heads and all(owners[key] == count for key, count in own.items())

    return [layer for layer in dict.fromkeys(find_layers(network)) if is_alone(layer)]


def reshard(module: nn.Module) -> None:
    """Forget gathered weights, which a forward pass without backward leaves behind."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor of any shape, which shares its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copy_whole(target: Tensor, whole: Tensor) -> None:
    """Copy a tensor, of which each process has the whole, into one of its shape that may be sharded."""
    whole = whole.reshape(target.shape)
    if isinstance(target, DTensor):
        placed = whole.to(target.device, target.dtype)
        whole = distribute_tensor(placed, target.device_mesh, target.placements, src_data_rank=None)
    local_part(target).copy_(local_part(whole))


def gather(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors by name, of any shape, each of its original one; all processes call this, the main one gets them."""
    scalars, found = _scalars(network), {}
    for name, tensor in tensors.items():
        whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
        if is_main():
            found[name] = (whole.reshape(()) if name in scalars else whole).cpu()
    return found


@torch.no_grad()
def load_weights_into_shards(network: nn.Module, path: Path) -> None:
    """Load each process's part of the weights of a network; raise RunFolderError if they do not fit."""
    tensors, own = read_weights(path), named_tensors(network)
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    differing = [name for name in own.keys() & tensors.keys() if own[name].numel() != tensors[name].numel()]
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(differing))):
        if names:
            raise RunFolderError(f"{path} does not fit the model of config.yml: {what}: {', '.join(names[:8])}")
    for name, tensor in own.items():
        copy_whole(tensor, tensors[name])


def save_optimizer(module: nn.Module, optimizer: Optimizer, schedule: LRScheduler, folder: Path) -> None:
    """Write the whole moments by the names of their weights, and the schedule; all processes call this."""
    state = get_optimizer_state_dict(module, optimizer, options=_WHOLE)
    if is_main():
        torch.save(state, folder / OPTIMIZER)
        torch.save(schedule.state_dict(), folder / SCHEDULE)


def load_optimizer(module: nn.Module, optimizer: Optimizer, schedule: LRScheduler, folder: Path) -> None:
    """Load each process's part of the moments, and the schedule; raise RunFolderError if the checkpoint has none."""
    path = folder / OPTIMIZER
    if not path.is_file():
        raise RunFolderError(f"{path} is not there: the checkpoint is not of a run with training.fsdp")
    state = torch.load(path, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(module, optimizer, state, options=_WHOLE)
    schedule.load_state_dict(torch.load(folder / SCHEDULE, weights_only=True))


def _unify(module: nn.Module, *, bf16: bool) -> None:
    """Make trainable weights float32 for `bf16`; raise UnfitError if they have several dtypes otherwise."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in trained})
    if len(kinds) > 1 and not bf16:
        raise UnfitError(
            f"training.fsdp needs weights of one dtype, and the network has {' and '.join(kinds)}; set dtype: float32 in "
            "the backbone's section, or training.bf16: true"
        )
    if bf16:
        for parameter in trained:
            parameter.data = parameter.data.float()


def _add_dimensions(module: nn.Module) -> None:
    """Replace weights without a dimension by ones of shape [1]."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.dim() == 0:
                wider = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
                setattr(part, name, wider)
                part.sharded_scalars = {*getattr(part, "sharded_scalars", ()), name}  # type: ignore[assignment]


def _scalars(network: nn.Module) -> set[str]:
    """Return the names of the weights that had no dimension."""
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, part in network.named_modules()
        for name in getattr(part, "sharded_scalars", ())
    }


def _tables(module: nn.Module) -> list[Tensor]:
    """Return the weights of a module's embedding of tokens and output head, as far as it names them."""
    found: list[Any] = [getattr(getattr(module, "output_head", None), "table", None)]
    for name in ("get_input_embeddings", "get_output_embeddings"):
        part = getattr(module, name)() if hasattr(module, name) else None
        found.append(getattr(part, "weight", None))
    return [table for table in found if isinstance(table, Tensor)]
