"""Calls any denoiser with what its `forward` accepts: a plain `forward(x_t, sigma)` is a denoiser too."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

OPTIONAL = ("mask", "cond", "blocks", "group_idxs", "cache")


class DenoiserCallError(ValueError):
    """A file or a caller asks for something that the network's `forward` does not take."""


class DenoiserCall:
    """A network's `forward`, called by the names of its parameters.

    The first parameter is x_t whatever its name. `sigma` goes to the parameter of that name, else to the first of the
    others that has no known name and no default. Raises DenoiserCallError where there is no place for sigma.
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
                f"{type(network).__name__}.forward{inspect.signature(forward)} takes no sigma; forward(x_t, sigma) fits"
            )
        unfilled = [name for name in free if name != self.sigma]
        if unfilled:
            raise DenoiserCallError(
                f"{type(network).__name__}.forward needs {', '.join(unfilled)}; besides x_t and sigma only "
                f"{', '.join(OPTIONAL)} are given"
            )

    def takes(self, name: str) -> bool:
        """Whether `forward` has a place for one of the optional arguments."""
        return self.takes_all or name in self.accepted

    def require(self, name: str, why: str) -> None:
        """Raise DenoiserCallError where `forward` has no place for `name`."""
        if not self.takes(name):
            raise DenoiserCallError(f"{why}, and {type(self.network).__name__}.forward takes no {name!r}")

    def __call__(self, x_t: Tensor, sigma: Tensor | None, **optional: Any) -> Tensor:
        """Logits [B, L, dim] of noisy tokens [B, L]; optional arguments that are None or not accepted are left out.

        `group_idxs` and `cond` without a default are given as None. Raises DenoiserCallError for a `cond`, `blocks` or
        `cache` that the network has no place for.
        """
        for name in ("cond", "blocks", "cache"):
            if optional.get(name) is not None:
                self.require(name, f"{name} was given")
        given = {
            name: value
            for name, value in {**dict.fromkeys(OPTIONAL), **optional}.items()
            if (name in self.accepted) or (self.takes_all and value is not None)
        }
        output: Tensor = self.network(x_t, **{self.sigma or "sigma": sigma}, **given)
        return output
