"""LoRA: add low-rank adapters to a network and merge them into its weights. Needs the extra `peft`."""

from typing import Protocol, TypeGuard

from torch import nn

from model_factory.experiment.training_types import LoraConfig
from model_factory.training.errors import UnfitError


def add_adapters(holder: nn.Module, settings: LoraConfig) -> None:
    """Add adapters to the linear layers of `holder` and freeze all other weights.

    `holder` must have no attribute `config`, which peft would read. New parts, which the network names in
    `trained_beside_adapters`, are trained as a whole. Raises UnfitError if no linear layer has one of the target names.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    linear = find_linear_layers(holder)
    known = sorted({name.rpartition(".")[2] for name in linear})
    heads = {"head", *(name.rpartition(".")[2] for name, child in linear.items() if id(child) in _heads(holder))}
    wanted = settings.target_modules or [name for name in known if name not in heads]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise UnfitError(
            f"training.lora.target_modules: no linear layer is called {', '.join(unknown) or '(none given)'}; "
            f"this model has {', '.join(known)}"
        )
    config = PeftConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=[
            name for name in linear if name.rpartition(".")[2] in wanted
        ],  # in full, as other modules may share a last name
    )
    inject_adapter_in_model(config, holder)
    for part in _new_parts(holder):
        part.requires_grad_(True)


def find_linear_layers(holder: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of `holder` that adapters can be added to, by their full names.

    New parts, which are trained as a whole, and parts that the section freezes (`is_frozen`) have none.
    """
    from transformers.pytorch_utils import Conv1D  # the linear layer of GPT-2

    parts = (part for part in _new_parts(holder) if isinstance(part, nn.Module))
    frozen = (part for part in holder.modules() if getattr(part, "is_frozen", False))
    beside = {id(inner) for part in (*parts, *frozen) for inner in part.modules()}
    plain = (nn.Linear.forward, Conv1D.forward)  # adapters add to the output, so it must be the layer's own
    return {
        name: child
        for name, child in holder.named_modules()
        if isinstance(child, nn.Linear | Conv1D) and type(child).forward in plain and id(child) not in beside
    }


def _new_parts(holder: nn.Module) -> list[nn.Module | nn.Parameter]:
    """Collect the modules and parameters that a network lists in `trained_beside_adapters`."""
    named = [(module, name) for module in holder.modules() for name in getattr(module, "trained_beside_adapters", ())]
    return [part for part in (getattr(module, name) for module, name in named) if part is not None]


class _HasOutputHead(Protocol):
    def get_output_embeddings(self) -> nn.Module | None: ...


def _has_output_head(module: object) -> TypeGuard[_HasOutputHead]:
    return hasattr(module, "get_output_embeddings")


def _heads(holder: nn.Module) -> set[int]:
    """Return the ids of the output heads of pretrained models, which may share weights with the embedding."""
    return {id(module.get_output_embeddings()) for module in holder.modules() if _has_output_head(module)}


def merge_adapters(holder: nn.Module) -> None:
    """Merge the adapters into the weights and remove them, so that the network has its original structure."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(holder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(holder.get_submodule(parent), child, module.get_base_layer())
