"""Build a backbone by its registered name; errors of its builder name the file and line."""

import traceback
from pathlib import Path

from torch import nn

from model.denoisers.registry import BACKBONES
from model.denoisers.view import BackboneView


class BackboneError(ValueError):
    """Error of a builder that failed or returned no module; the cause is chained."""


def build_backbone(name: str, config: BackboneView, vocab_size: int) -> nn.Module:
    """Build the network of a registered backbone; `vocab_size` is the process's dim.

    Raises BackboneError if the builder fails on its config or returns no module. ValueErrors pass unchanged: their
    messages are written for the user.
    """
    try:
        network = BACKBONES.get(name).build(config, vocab_size)
    except (AttributeError, TypeError, LookupError, AssertionError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        location = f"{Path(frames[1].filename).name}:{frames[1].lineno}" if len(frames) > 1 else "its call"
        message = f"backbone {name!r} cannot be built: {type(error).__name__} at {location}: {error}"
        raise BackboneError(message) from error
    if not isinstance(network, nn.Module):
        raise BackboneError(
            f"backbone {name!r}: its builder returned a {type(network).__name__}; it must return an nn.Module"
        )
    return network
