"""Build a registered backbone, and call any denoiser with the arguments that its `forward` accepts.

A plain `forward(x_t, sigma)` is enough.
"""

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from model.denoisers.registry import BACKBONES
from model.denoisers.view import BackboneView

OPTIONAL = ("mask", "cond", "blocks", "documents", "group_idxs", "cache")


class DenoiserCallError(ValueError):
    """Error of a file or a caller that needs an argument which the network's `forward` does not take."""


class DenoiserCall:
    """Wrapper that calls a network's `forward` by the names of its parameters.

    The first parameter is x_t whatever its name. `sigma` goes to the parameter of that name, else to the first other
    one without a known name and without a default. Raises DenoiserCallError if no parameter takes sigma.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        forward: Callable[..., Any] = network.forward
        parameters = list(inspect.signature(forward).parameters.values())
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
        self.accepted = {p.name for p in named[1:]}
        free = [p.name for p in named[1:] if p.name not in OPTIONAL and p.default is p.empty]
        self.sigma = "sigma" if "sigma" in self.accepted else free[0] if free else None
        if not named or (self.sigma is None and not self.takes_all):
            raise DenoiserCallError(
                f"{type(network).__name__}.forward{inspect.signature(forward)} has no sigma; write forward(x_t, sigma)"
            )
        unfilled = [name for name in free if name != self.sigma]
        if unfilled:
            raise DenoiserCallError(
                f"{type(network).__name__}.forward requires {', '.join(unfilled)}; besides x_t and sigma only "
                f"{', '.join(OPTIONAL)} are passed: give other parameters a default"
            )

    def takes(self, name: str) -> bool:
        """Return True if `forward` accepts the optional argument `name`."""
        return self.takes_all or name in self.accepted

    def require(self, name: str, why: str) -> None:
        """Raise DenoiserCallError if `forward` does not accept `name`; `why` begins the message."""
        if not self.takes(name):
            raise DenoiserCallError(f"{why}, and {type(self.network).__name__}.forward takes no {name!r}")

    def __call__(self, x_t: Tensor, sigma: Tensor | None, **optional: Any) -> Tensor:
        """Return logits [B, L, dim] of noisy tokens [B, L]; omit optional arguments that are None or not accepted.

        Accepted parameters without a value, such as `group_idxs`, are passed as None. Raises DenoiserCallError for a
        `cond`, `blocks`, `documents` or `cache` that the network does not accept.
        """
        for name in ("cond", "blocks", "documents", "cache"):
            if optional.get(name) is not None:
                self.require(name, f"{name} was given")
        given = {
            name: value
            for name, value in {**dict.fromkeys(OPTIONAL), **optional}.items()
            if (name in self.accepted) or (self.takes_all and value is not None)
        }
        output: Tensor = self.network(x_t, **{self.sigma or "sigma": sigma}, **given)
        return output


class AnchoredCall(DenoiserCall):
    """Call of a network that inserts tokens: an anchor is put before each row, whose gap is the one before the row.

    `anchor` is the id of the first extra state, which the network is built with. Positions after the end of a row have
    negative ids; they give the mask of real tokens, and a `mask` that is passed is not used.
    """

    def __init__(self, network: nn.Module, anchor: int) -> None:
        super().__init__(network)
        self.anchor = anchor
        self.require("mask", "rows whose tokens are inserted have different lengths")

    def __call__(self, x_t: Tensor, sigma: Tensor | None, **optional: Any) -> Tensor:
        """Return outputs [B, L + 1, dim + extra] of noisy rows [B, L], of the anchor and of each token."""
        ids = F.pad(x_t, (1, 0), value=self.anchor)
        if sigma is not None and sigma.dim() == 2:
            sigma = F.pad(sigma, (1, 0), value=0.0)
        return super().__call__(ids.clamp_min(0), sigma, **{**optional, "mask": ids >= 0})


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
