"""Parameterisations of a network's output, as logits of the clean token or log-scores, and conversion between them.

A network may be trained to predict logits of the clean token (Sahoo et al. 2024, Schiff et al. 2024) or log-scores (Lou
et al. 2024). Losses and samplers call the one they need: `log_x0` or `log_score`, [..., dim] float64. Oracles and tests
use the inverses, from a distribution or a score to an output. For noise other than the mask, x0 is the distribution of
the clean token given the *other* tokens, p(x_0[l] | x_t without position l), not the posterior mean.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import ShapeError, check_sigma
from model_factory.diffusion.processes.forward_process import Graph, per_token
from model_factory.diffusion.processes.graph import log_expm1


class Parameterisation(ABC):
    """Interpretation of network outputs [B, L, dim] for a process; sigma is [B] or [B, L], x_t is [B, L].

    Class attributes:
        variable_length: True if outputs also hold the missing tokens of gaps, from which samplers insert tokens.
    """

    variable_length: ClassVar[bool] = False

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @abstractmethod
    def log_x0(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return log-probabilities of the clean tokens, [B, L, dim]; raise ShapeError and SigmaError."""

    @abstractmethod
    def log_score(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return log-ratios log p(y) / p(x_t), [B, L, dim], zero at x_t; raise ShapeError and SigmaError."""

    @abstractmethod
    def output_from_x0(self, log_x_0: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return an output [B, L, dim] that `log_x0` maps to `log_x_0`, of the same shape."""

    @abstractmethod
    def output_from_score(self, log_score: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return an output [B, L, dim] that the method `log_score` maps to the argument, of the same shape."""

    def _check(self, output: Tensor, x_t: Tensor) -> None:
        expected = (*x_t.shape, self.graph.dim)
        if output.shape != expected:
            raise ShapeError("output", tuple(output.shape), f"{expected}, whose last axis is the process's dim")


class X0Parameterisation(Parameterisation):
    """Outputs are logits of the clean token: SUBS for the absorbing process, a softmax for the others."""

    def log_x0(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Normalise the logits, see `Graph.clean_log_probs`; raise ShapeError."""
        self._check(output, x_t)
        return self.graph.clean_log_probs(output, x_t)

    def log_score(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Convert the distribution of the clean token to the score; raise ShapeError and SigmaError."""
        return self.graph.log_score_from_x0(self.log_x0(output, x_t, sigma), x_t, check_sigma("sigma", sigma))

    def output_from_x0(self, log_x_0: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return the log-probabilities, which are logits."""
        return log_x_0

    def output_from_score(self, log_score: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Convert the score to log-probabilities of the clean token; raise SigmaError."""
        return self.graph.log_x0_from_score(log_score, x_t, check_sigma("sigma", sigma))


class ScoreParameterisation(Parameterisation):
    """Outputs are log-scores, with SEDD's shift by the noise level if `scale_by_sigma`.

    The shift, -log(exp(sigma) - 1) - log(dim - 1), makes an output of zeros the absorbing score of a uniform
    distribution, so that the network need not learn the scale of sigma. By default it is used for the absorbing process
    only, as in SEDD.
    """

    def __init__(self, graph: Graph, scale_by_sigma: bool | None = None) -> None:
        super().__init__(graph)
        self.scale_by_sigma = graph.absorbing if scale_by_sigma is None else scale_by_sigma

    def log_score(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return the shifted output, zero at x_t; raise ShapeError and SigmaError."""
        self._check(output, x_t)
        shifted = output.to(torch.float64) - self._shift(x_t, sigma)
        return shifted.scatter(-1, x_t[..., None], 0.0)

    def log_x0(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Convert the score to log-probabilities of the clean token; raise ShapeError and SigmaError."""
        return self.graph.log_x0_from_score(self.log_score(output, x_t, sigma), x_t, check_sigma("sigma", sigma))

    def output_from_score(self, log_score: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Undo the shift of the log-score; raise SigmaError."""
        return log_score.to(torch.float64) + self._shift(x_t, sigma)

    def output_from_x0(self, log_x_0: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return the output of the score that follows from the distribution; raise SigmaError."""
        score = self.graph.log_score_from_x0(log_x_0, x_t, check_sigma("sigma", sigma))
        return self.output_from_score(score, x_t, sigma)

    def shift(self, sigma: Tensor) -> Tensor:
        """Return what is subtracted from outputs at sigma, of its shape."""
        return log_expm1(sigma) + math.log(self.graph.dim - 1) if self.scale_by_sigma else torch.zeros_like(sigma)

    def _shift(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        return self.shift(per_token(check_sigma("sigma", sigma), x_t)[..., None])
