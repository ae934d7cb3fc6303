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
        network: called as `network(x_t, sigma)`, x_t [b, L] and sigma [b], with `cond` and `mask` by keyword if they
            are given; returns [b, L, dim].
        parameterisation: of that output.
        cond: [B, ...], a condition for each row; null_cond: the null condition; without it `cond` is left out.
        guidance: scale of classifier-free guidance, null + guidance (conditioned - null) on the network's outputs, which
            are logarithms (Ho and Salimans 2022; Schiff et al. 2024); 1: the conditional output.
        temperature: divides the log-probabilities of the clean token; 0 takes the most likely token.
        top_p: nucleus sampling, keeps the fewest tokens whose probabilities reach it (Holtzman et al. 2020).
        mask: bool [B, L], True at real tokens, passed to the network.
        block_size: tokens of a block if the network predicts one block only, the first with masks.
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

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0.0, 1e6)
        check_number("top_p", self.top_p, 0.0, 1.0, low_open=True)
        check_number("guidance", self.guidance, -1e6, 1e6)

    @property
    def calls(self) -> int:
        """Network calls for one evaluation of a row: two with guidance."""
        return 1 if self.cond is None or self.guidance in (0.0, 1.0) else 2

    def select(self, rows: slice) -> "Denoiser":
        """Return the denoiser of a slice of rows of the batch."""
        cut = {name: value[rows] for name in ("cond", "mask") if (value := getattr(self, name)) is not None}
        if self.null_cond is not None and self.cond is not None and self.null_cond.shape == self.cond.shape:
            cut["null_cond"] = self.null_cond[rows]
        return replace(self, **cut)

    def output(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the guided output for x_t [b, L] at sigma [b]; `rows` are their indices in the batch, all by default."""
        extras = {} if self.mask is None else {"mask": _take(self.mask, rows)}
        if self.cond is None:
            return self.network(x_t, sigma, **extras)
        null: dict[str, Any] = {} if self.null_cond is None else {"cond": self._null(rows)}
        if self.guidance == 0:
            return self.network(x_t, sigma, **extras, **null)
        conditioned = self.network(x_t, sigma, cond=_take(self.cond, rows), **extras)
        if self.guidance == 1:
            return conditioned
        plain = self.network(x_t, sigma, **extras, **null)
        # Infinite log-probabilities (an impossible token) would give inf - inf; the conditional output is used there.
        return torch.where(
            torch.isfinite(plain) & torch.isfinite(conditioned),
            plain + self.guidance * (conditioned - plain),
            conditioned,
        )

    def log_x0(self, x_t: Tensor, sigma: Tensor, rows: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        """Return log-probabilities of clean tokens, [b, L, dim], or [n, dim] at the n positions where bool [b, L] is True."""
        output = self.output(x_t, sigma, rows)
        if where is not None:
            sigma = sigma[:, None].expand(x_t.shape)[where]
            output, x_t = output[where], x_t[where]
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
