"""Networks and the types that describe them. Importing this package imports no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.bert_diffusion_model import BertDiffusionModel
    from model.bert_factory import build_medium_bert_diffusion_model

__all__ = ["BertDiffusionModel", "build_medium_bert_diffusion_model"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is asked for."""
    if name in __all__:
        from model import bert_factory

        return getattr(bert_factory, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
