"""From the name of a backbone to its network; what goes wrong in a builder is said with the place in its file."""

import traceback
from pathlib import Path

from torch import nn

from model.denoisers.registry import BACKBONES
from model.denoisers.view import BackboneView


class BackboneError(ValueError):
    """A builder that failed, or gave no module; the cause is chained."""


def build_backbone(name: str, config: BackboneView, vocab_size: int) -> nn.Module:
    """The network of a registered backbone; `vocab_size` is the process's dim.

    Raises BackboneError where the builder stumbles over its config or gives no module. ValueErrors pass as they are:
    they say what is wrong themselves.
    """
    try:
        network = BACKBONES.get(name).build(config, vocab_size)
    except (AttributeError, TypeError, LookupError, AssertionError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[1].filename).name}:{frames[1].lineno}" if len(frames) > 1 else "its call"
        message = f"backbone {name!r} cannot be built: {type(error).__name__} at {place}: {error}"
        raise BackboneError(message) from error
    if not isinstance(network, nn.Module):
        raise BackboneError(f"backbone {name!r} gave a {type(network).__name__}; its builder must give an nn.Module")
    return network
