"""Networks, the configuration types of the `model` section, and the registries that connect them.

Importing this package, or a module of types, imports no torch. Nothing here imports data_manager, training or
evaluation: a network takes tensors and a config, and depends on no data set and no training loop.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.bert_diffusion_model import BertDiffusionModel, build_medium_bert_diffusion_model

__all__ = ["BertDiffusionModel", "build_medium_bert_diffusion_model"]


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` at its first use."""
    if name in __all__:
        from model import bert_diffusion_model

        return getattr(bert_diffusion_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
