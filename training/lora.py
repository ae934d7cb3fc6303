"""Low-rank adapters in a network, and their merging into its weights. Needs the extra `peft`."""

from torch import nn

from training.config_types import LoraConfig
from training.errors import UnfitError


def add_adapters(holder: nn.Module, settings: LoraConfig) -> None:
    """Put adapters into `holder` (which has no `config`, as peft would read it) and freeze all other weights.

    Raises UnfitError where no linear layer has one of the names asked for.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    known = sorted({name.rpartition(".")[2] for name, child in holder.named_modules() if isinstance(child, nn.Linear)})
    wanted = settings.target_modules or [name for name in known if name != "head"]
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
        target_modules=wanted,
    )
    inject_adapter_in_model(config, holder)


def merge_adapters(holder: nn.Module) -> None:
    """Add what adapters have learnt to the weights, and take them out: the network is as it was built."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(holder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(holder.get_submodule(parent), child, module.get_base_layer())
