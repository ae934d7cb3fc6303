"""A network with condition, guidance, temperature, top-p and the parameterisation of its output, for samplers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_number
from model_factory.diffusion.objectives.parameterisation import Parameterisation


@dataclass(frozen=True)
class Denoiser:
    """Distribution of the clean tokens and score from a network, for all or some rows of a batch.

    Arguments:
        network: called as `network(x_t, sigma)`, x_t [b, L] and sigma [b], or [b, L] with `given` tokens, with `cond`
            and `mask` by keyword if they are given; returns [b, L, dim].
        parameterisation: of that output.
        cond: [B, ...], a condition for each row; null_cond: the null condition; without it `cond` is left out.
        guidance: scale of classifier-free guidance, null + guidance (conditioned - null) on the network's outputs, which
            are logarithms (Ho and Salimans 2022; Schiff et al. 2024); 1: the conditional output.
        temperature: divides the log-probabilities of the clean token; 0 takes the most likely token.
        top_p: nucleus sampling, keeps the fewest tokens whose probabilities reach it (Holtzman et al. 2020).
        mask: bool [B, L], True at real tokens, passed to the network.
        context: float [B, M, width], what the network reads of each row's source, with context_mask bool [B, M];
            null_context [B, 1, width] replaces it where guidance leaves the source out.
        hidden: bool [B, L], the given tokens that guidance leaves out, a source in the row; passed to the network.
        hides_prompt: True if guidance leaves out the prompt, whose positions `sample` sets as `hidden`.
        block_size: tokens of a block if the network predicts one block only, the first with masks.
        given: bool [B, L], True at clean tokens of a prompt, for `Graph.conditioning_level`; None: no prompt.
    Raises SettingError for an invalid temperature, top_p or guidance.
    """

    network: Callable[..., Tensor]
    parameterisation: Parameterisation
    cond: Tensor | None = None
    null_cond: Tensor | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    mask: Tensor | None = None
    block_size: int | None = None
    given: Tensor | None = None
    context: Tensor | None = None
    context_mask: Tensor | None = None
    null_context: Tensor | None = None
    hidden: Tensor | None = None
    hides_prompt: bool = False

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0.0, 1e6)
        check_number("top_p", self.top_p, 0.0, 1.0, low_open=True)
        check_number("guidance", self.guidance, -1e6, 1e6)

    @property
    def calls(self) -> int:
        """Network calls for one evaluation of a row: two with guidance."""
        return 2 if self._is_guided and self.guidance not in (0.0, 1.0) else 1

    @property
    def _is_guided(self) -> bool:
        """True if there is a condition or a source that guidance can leave out."""
        return self.cond is not None or self.null_context is not None or self.hidden is not None

    def select(self, rows: slice) -> "Denoiser":
        """Return the denoiser of a slice of rows of the batch."""
        cut = {name: value[rows] for name in _PER_ROW if (value := getattr(self, name)) is not None}
        if self.null_cond is not None and self.cond is not None and self.null_cond.shape == self.cond.shape:
            cut["null_cond"] = self.null_cond[rows]
        return replace(self, **cut)

    def output(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the guided output for x_t [b, L] at sigma [b]; `rows` are their indices in the batch, all by default."""
        sigma = self.parameterisation.graph.conditioning_level(sigma, _take(self.given, rows))
        if not self._is_guided or self.guidance == 1:
            return self._conditioned(x_t, sigma, rows)
        plain = self._unconditioned(x_t, sigma, rows)
        if self.guidance == 0:
            return plain
        conditioned = self._conditioned(x_t, sigma, rows)
        # Infinite log-probabilities (an impossible token) would give inf - inf; the conditional output is used there.
        return torch.where(
            torch.isfinite(plain) & torch.isfinite(conditioned),
            plain + self.guidance * (conditioned - plain),
            conditioned,
        )

    def _conditioned(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
        """Call the network with the condition and the source of each row."""
        given = {name: _take(getattr(self, name), rows) for name in ("mask", "cond", "context", "context_mask")}
        return self.network(x_t, sigma, **{name: value for name, value in given.items() if value is not None})

    def _unconditioned(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None) -> Tensor:
        """Call the network with the null condition, and without sources."""
        given: dict[str, Any] = {"mask": _take(self.mask, rows)}
        if self.cond is not None and self.null_cond is not None:
            given["cond"] = self._null(rows)
        given |= {"hidden": _take(self.hidden, rows), "context": _take(self.null_context, rows)}
        if self.null_context is None:
            given |= {name: _take(getattr(self, name), rows) for name in ("context", "context_mask")}
        return self.network(x_t, sigma, **{name: value for name, value in given.items() if value is not None})

    def log_x0(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        """Return log-probabilities of clean tokens, [b, L, dim], or [n, dim] at n places int64 [n], counted through all rows."""
        output = self.output(x_t, sigma, rows)
        if where is not None:
            sigma = sigma[where // x_t.shape[1]]
            output, x_t = output.flatten(0, 1)[where], x_t.flatten()[where]
        return self.clean_log_probs(output, x_t, sigma)

    def clean_log_probs(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return log-probabilities [..., dim] of clean tokens from the network's outputs at tokens x_t [...]."""
        return self._shape(self.parameterisation.log_x0(output, x_t, sigma))

    def log_score(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return log-scores [b, L, dim]; temperature and top-p act on the distribution of the clean token."""
        output = self.output(x_t, sigma, rows)
        if self.temperature == 1 and self.top_p == 1:
            return self.parameterisation.log_score(output, x_t, sigma)
        log_x_0 = self._shape(self.parameterisation.log_x0(output, x_t, sigma))
        return self.parameterisation.graph.log_score_from_x0(log_x_0, x_t, sigma)

    def _shape(self, log_probs: Tensor) -> Tensor:
        return keep_top_p(apply_temperature(log_probs, self.temperature), self.top_p)

    def _null(self, rows: Tensor | None) -> Tensor | None:
        per_row = self.null_cond is not None and self.cond is not None and self.null_cond.shape == self.cond.shape
        return _take(self.null_cond, rows) if per_row else self.null_cond


_PER_ROW = ("cond", "mask", "given", "context", "context_mask", "null_context", "hidden")


def apply_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """Divide log-probabilities [..., dim] by a temperature and normalise; 0 keeps the first maximum."""
    if temperature == 1:
        return log_probs
    if temperature == 0:
        best = log_probs.argmax(-1, keepdim=True)
        return torch.full_like(log_probs, -torch.inf).scatter(-1, best, 0.0)
    return torch.log_softmax(log_probs / temperature, -1)


def keep_top_p(log_probs: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens of log-probabilities [..., dim] that reach `top_p` together, at least one.

    The others become -inf; the result is normalised.
    """
    if top_p == 1:
        return log_probs
    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    probs = ordered.exp()
    dropped = probs.cumsum(-1) - probs >= top_p
    dropped[..., 0] = False
    kept = log_probs.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf)
    return torch.log_softmax(kept, -1)


def _take(values: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return values if values is None or rows is None else values[rows]
