"""Checks that optional libraries are installed if a `training` section needs them."""

from importlib.util import find_spec

from training.config_types import TrainingConfig
from training.errors import UnfitError

_REPORTERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def check_extras(settings: TrainingConfig) -> None:
    """Raise UnfitError, with the extra to install, for a key of `training` whose library is missing."""
    for module in _REPORTERS.get(settings.report_to, ()):
        if find_spec(module) is not None:
            break
    else:
        if settings.report_to != "none":
            raise UnfitError(_message(f"report_to: {settings.report_to}", settings.report_to))
    if settings.lora is not None and find_spec("peft") is None:
        raise UnfitError(_message("lora", "peft"))


def _message(key: str, extra: str) -> str:
    return f"training.{key} needs the extra {extra!r}, which is not installed: pip install 'model-factory[{extra}]'"
