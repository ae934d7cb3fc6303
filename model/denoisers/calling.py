"""Build a registered backbone, and call any denoiser with the arguments that its `forward` accepts.

A plain `forward(x_t, sigma)` is enough.
"""

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.denoisers.config_types import BackboneConfig
from model.denoisers.registry import BACKBONES, find_level_problem
from model.denoisers.view import BackboneView
from model.evaluation_mode import evaluation_mode
from model.head_loss import HeadWeights
from model.transformer.inputs import has_values

OPTIONAL = ("mask", "cond", "context", "context_mask", "blocks", "documents", "group_idxs", "cache")


class DenoiserCallError(ValueError):
    """Error of a file or a caller that needs an argument which the network's `forward` does not take."""


class DenoiserCall:
    """Wrapper that calls a network's `forward` by the names of its parameters.

    The first parameter is x_t whatever its name. `sigma` goes to the parameter of that name, else to the first other
    one without a known name and without a default. With `section`, the backbone's under noise that is not absorbing,
    sigma [B, L] is refused for a network that takes no levels of tokens; where that is unknown, the network is tried
    in the first such call. Raises DenoiserCallError if no parameter takes sigma.
    """

    def __init__(self, network: nn.Module, section: BackboneConfig | None = None) -> None:
        problem = None if section is None else find_level_problem(section)
        self.network, self._level_problem = network, None if problem is None else problem.message
        known = section is None or BACKBONES.get(section.type).token_levels
        self._token_levels = False if problem else known
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

    @property
    def output_head(self) -> HeadWeights | None:
        """Weights of the network's head over what its `hidden` returns; None if it does not give them apart."""
        kinds = type(self.network).__mro__
        first = next((kind for kind in kinds if {"forward", "hidden"} & vars(kind).keys()), None)
        if first is None or "hidden" not in vars(first) or "forward" in vars(self.network):
            return None  # a subclass whose `forward` is not that of the inherited `hidden`
        if self.network._forward_hooks or self.network._forward_pre_hooks:
            return None  # they are of whole calls
        return getattr(self.network, "output_head", None)

    def __call__(self, x_t: Tensor, sigma: Tensor | None, **optional: Any) -> Tensor:
        """Return logits [B, L, dim] of noisy tokens [B, L]; omit optional arguments that are None or not accepted.

        Accepted parameters without a value, such as `group_idxs`, are passed as None. Raises DenoiserCallError for a
        `cond`, `context`, `blocks`, `documents` or `cache` that the network does not accept, and for sigma [B, L] if it takes
        [B] only.
        """
        self._check(x_t, sigma, optional)
        return self._call(x_t, sigma, optional)

    def hidden(self, x_t: Tensor, sigma: Tensor | None, **optional: Any) -> Tensor:
        """Return the states [B, L, width] that the network's head maps to logits; arguments and errors as in a call."""
        self._check(x_t, sigma, optional)
        states: Tensor = self.network.hidden(x_t, **self._keywords(sigma, optional))  # type: ignore[operator]
        return states

    def _check(self, x_t: Tensor, sigma: Tensor | None, optional: dict[str, Any]) -> None:
        if self._token_levels is not True and sigma is not None and sigma.dim() == 2 and optional.get("blocks") is None:
            self._check_token_levels(x_t, optional.get("cond"))
        for name in ("cond", "context", "blocks", "documents", "cache"):
            if optional.get(name) is not None:
                self.require(name, f"{name} was given")

    def _call(self, x_t: Tensor, sigma: Tensor | None, optional: dict[str, Any]) -> Tensor:
        output: Tensor = self.network(x_t, **self._keywords(sigma, optional))
        return output

    def _keywords(self, sigma: Tensor | None, optional: dict[str, Any]) -> dict[str, Any]:
        given = {
            name: value
            for name, value in {**dict.fromkeys(OPTIONAL), **optional}.items()
            if (name in self.accepted) or (self.takes_all and value is not None)
        }
        return {self.sigma or "sigma": sigma, **given}

    def _check_token_levels(self, x_t: Tensor, cond: Tensor | None) -> None:
        """Raise DenoiserCallError unless the network takes sigma [B, L], which is tried once if it is not known."""
        if self._token_levels is None:
            if not has_values(x_t):
                return
            rows = None if cond is None else cond[:1].expand(2, *cond.shape[1:])
            self._level_problem = self._try_token_levels(x_t, rows)
            self._token_levels = self._level_problem is None
        if not self._token_levels:
            raise DenoiserCallError(_NO_LEVELS.format(type(self.network).__name__, self._level_problem))

    @torch.no_grad()
    def _try_token_levels(self, x_t: Tensor, cond: Tensor | None) -> str | None:
        """Return why the network does not take sigma [B, L], None if equal levels of all tokens act as that of the row.

        Two lengths are tried, as sigma [B, L] may broadcast against another axis that happens to have size L.
        """
        rows = torch.tensor([0.3, 1.2], device=x_t.device)
        with evaluation_mode(self.network):
            for length in (x_t.shape[1], max(2, x_t.shape[1] // 2)):
                ids = x_t[:1].expand(2, -1)[:, :length]
                alike, output = (self._output(ids, sigma, cond) for sigma in (rows, rows[:, None].expand(ids.shape)))
                if isinstance(alike, str):
                    return f"with rows of {length} tokens, to try it, {alike}"
                if isinstance(output, str):
                    return output
                if output.shape != alike.shape:
                    return f"its output is then {list(output.shape)}, not {list(alike.shape)}"
                if not torch.allclose(output, alike, rtol=0.02, atol=0.02 * float(alike.abs().max())):
                    return "equal levels of all tokens give another output than sigma [B]"
            if self._hides_level(x_t[:1].expand(2, -1), rows, cond):
                return "the level of a token changes its own output alone, so no other token sees it"
        return None

    def _hides_level(self, ids: Tensor, rows: Tensor, cond: Tensor | None) -> bool:
        """Return True if a change of the first token reaches outputs after it, and one of its level the first alone.

        Differences of rounding do not count: equal sums in memory of another alignment differ in their last digits.
        """
        levels, first = rows[:, None].expand(ids.shape), torch.arange(ids.shape[1], device=ids.device) == 0
        changed = (ids, levels), (torch.where(first, (ids == 0).to(ids.dtype), ids), levels), (ids, levels + 3 * first)
        plain, other, told = (self._call(tokens, sigma, {"cond": cond}) for tokens, sigma in changed)
        rounding = 16 * torch.finfo(plain.dtype).eps * plain.abs().max()
        reached, moved = (((found - plain).abs() > rounding).any(-1) for found in (other, told))
        return bool(reached[:, 1:].any() and moved[:, 0].any() and not moved[:, 1:].any())

    def _output(self, ids: Tensor, sigma: Tensor, cond: Tensor | None) -> Tensor | str:
        """Return the network's output, or the error that it raises."""
        try:
            output: Tensor = self._call(ids, sigma, {"cond": cond})
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError) as error:
            return f"{type(error).__name__}: " + " ".join(str(error).split())[:200]
        return output


_NO_LEVELS = (
    "{0} takes no noise level for each token, sigma [B, L]: {1}. Prompts, and rows with responses, need that unless "
    "the noise is absorbing: level 0 marks a given token. Begin forward with `sigma = sigma[:, None] if sigma.dim() "
    "== 1 else sigma`, embed it to [B, 1 or L, width], add that to the tokens before attention, and register the backbone "
    "with token_levels=True; or use absorbing noise"
)


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
