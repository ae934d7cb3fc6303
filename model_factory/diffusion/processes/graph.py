"""The uniform and the absorbing process (Lou et al. 2024 call them graphs)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from model_factory.diffusion.errors import check_count, check_sigma, check_tokens
from model_factory.diffusion.processes.forward_process import EvenNoise, Graph, per_token
from model_factory.diffusion.randomness import Randomness, uniform

__all__ = ["AbsorbingGraph", "Graph", "UniformGraph"]


def log_expm1(sigma: Tensor) -> Tensor:
    """Return log(exp(sigma) - 1), accurate for small and for large sigma, of any shape."""
    return sigma + torch.log(-torch.expm1(-sigma))


class UniformGraph(Graph):
    """Process that replaces tokens by uniformly drawn ones: Q = 11'/N - I; dim = N."""

    def __init__(self, num_tokens: int) -> None:
        check_count("num_tokens", num_tokens)
        super().__init__(num_tokens, torch.full((num_tokens,), 1.0 / num_tokens, dtype=torch.float64))

    def sample_limit(
        self, shape: Sequence[int], generator: Randomness = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Draw uniform tokens of the given shape."""
        return (uniform(shape, generator, device) * self.num_tokens).long().clamp_max(self.num_tokens - 1)

    def even_noise(self, sigma: Tensor) -> EvenNoise:
        """Return the noise and its rate at one data token, of the shape of sigma; there is no mask."""
        none, rate = torch.zeros_like(sigma), torch.full_like(sigma, 1.0 / self.num_tokens)
        return EvenNoise(-torch.expm1(-sigma) / self.num_tokens, none, rate, none)

    def log_ratio(self, sigma: Tensor) -> Tensor:
        """Return log rho of the shape of sigma, the log-ratio of another token's probability to the clean one's."""
        alpha, lost = torch.exp(-sigma), -torch.expm1(-sigma)
        return torch.log(lost) - torch.log(lost + self.num_tokens * alpha)

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x_t: Tensor, x_0: Tensor) -> Tensor:
        """Return the score entropy of each token; see `Graph.score_entropy`.

        The true ratio a_y is the same at all y but x_t and x_0: rho if the token is clean, 1 if it is not, and 1 / rho
        at x_0. So no distribution of the truth is expanded over the vocabulary. This is the Rao-Blackwellised form of
        UDLM's bound (Sahoo et al. 2025, Duo), without differences of large terms.
        """
        self._check_pair(log_score, x_t, x_0)
        check_tokens("x_0", x_0, self.dim)
        sigma = per_token(check_sigma("sigma", sigma), x_t)
        log_rho = self.log_ratio(sigma).expand(x_t.shape)
        clean = x_t == x_0
        log_a = torch.where(clean, log_rho, 0.0)[..., None]
        log_score = log_score.to(torch.float64)
        excess = (log_score - log_a).scatter(-1, x_t[..., None], 0.0)
        excess = excess.scatter(-1, x_0[..., None], 0.0)
        others = log_a[..., 0].exp() * (torch.expm1(excess) - excess).sum(-1)
        own = log_score.gather(-1, x_0[..., None])[..., 0] + log_rho
        truth = torch.where(clean, 0.0, torch.exp(-log_rho) * (torch.expm1(own) - own))
        return (others + truth) / self.num_tokens

    def prior_part(self, x_0: Tensor, sigma: Tensor, log_x_0: Tensor | None = None) -> Tensor:
        """Return KL(q_sigma(. | x_0) || uniform) in nats, the same for every token; raise TokenError and SigmaError."""
        check_tokens("x_0", x_0, self.dim)
        alpha = torch.exp(-per_token(check_sigma("sigma", sigma), x_0))
        others: Tensor = torch.special.xlog1py(1 - alpha, -alpha) * (self.num_tokens - 1)
        own = (1 + (self.num_tokens - 1) * alpha) * torch.log1p((self.num_tokens - 1) * alpha)
        return ((own + others) / self.num_tokens).clamp_min(0).expand(x_0.shape)


class AbsorbingGraph(Graph):
    """Process that replaces tokens by a mask, the last of N + 1 states, which stays: Q(i -> M) = 1, Q(i -> i) = -1.

    Unmasked tokens are clean: their loss is zero, and log x_0 is the token itself.
    """

    absorbing: ClassVar[bool] = True

    def __init__(self, num_tokens: int) -> None:
        check_count("num_tokens", num_tokens)
        limit = torch.zeros(num_tokens + 1, dtype=torch.float64)
        limit[-1] = 1.0
        super().__init__(num_tokens, limit)

    def sample_limit(
        self, shape: Sequence[int], generator: Randomness = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return masks only; nothing is drawn."""
        return torch.full(tuple(shape), self.num_tokens, dtype=torch.int64, device=device)

    def staggered_score(self, score: Tensor, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return exp(dsigma) s at the data tokens, s_M - (exp(dsigma) - 1) times the sum of the others at the mask."""
        dsigma = self._check_stagger(score, dsigma)[..., None]
        score = score.to(torch.float64)
        data, mask = score[..., : self.num_tokens], score[..., self.num_tokens :]
        return torch.cat([torch.exp(dsigma) * data, mask - torch.expm1(dsigma) * data.sum(-1, keepdim=True)], -1)

    def reverse_posterior(self, x_0: Tensor, x_t: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior: a mask becomes x_0 with probability (alpha_next - alpha) / (1 - alpha) (Sahoo et al. 2024)."""
        return self.unmask_probability(x_t, sigma, sigma_next), x_0

    def unmask_probability(self, x_t: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Return the probability [B, L] of unmasking from sigma to sigma_next; zero at unmasked tokens."""
        sigma, sigma_next = per_token(sigma, x_t), per_token(sigma_next, x_t)
        unmasked = torch.exp(-sigma_next) * torch.expm1(sigma_next - sigma) / torch.expm1(-sigma)
        return torch.where(self.is_masked(x_t), unmasked, 0.0)

    def clean_log_probs(self, logits: Tensor, x_t: Tensor) -> Tensor:
        """Return SUBS log-probabilities (Sahoo et al. 2024): zero probability of the mask, unmasked tokens copied."""
        predicted = super().clean_log_probs(logits, x_t)
        copied = torch.full_like(predicted, -torch.inf).scatter(-1, x_t[..., None], 0.0)
        return torch.where(self.is_masked(x_t)[..., None], predicted, copied)

    def log_score_from_x0(self, log_x_0: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return log s_y, s_y = x_0(y) / (exp(sigma) - 1) at a mask; at a token 1 for itself, exp(sigma) - 1 for the mask."""
        level = log_expm1(per_token(sigma, x_t))[..., None]
        masked = self.is_masked(x_t)[..., None]
        at_mask = log_x_0.to(torch.float64) - level
        at_token = torch.full_like(at_mask, -torch.inf)
        at_token[..., self.num_tokens :] = level
        return torch.where(masked, at_mask, at_token).scatter(-1, x_t[..., None], 0.0)

    def log_x0_from_score(self, log_score: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Normalise the scores of data tokens, whatever their sum; copy unmasked tokens."""
        return self.clean_log_probs(log_score, x_t)

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x_t: Tensor, x_0: Tensor) -> Tensor:
        """Return the score entropy of each token, zero where x_t is not masked; see `Graph.score_entropy`.

        With r = 1 / (exp(sigma) - 1): the sum of s_y over y != x_0, M, plus r (exp(d) - 1 - d), d = log s_{x_0} / r.
        """
        self._check_pair(log_score, x_t, x_0)
        check_tokens("x_0", x_0, self.num_tokens)
        masked = self.is_masked(x_t)
        log_r = -log_expm1(per_token(check_sigma("sigma", sigma), x_t)).expand(x_t.shape)[masked]
        scores = log_score[masked][:, : self.num_tokens].to(torch.float64)  # only masked positions, which saves memory
        truth = x_0[masked][:, None]
        excess = scores.gather(1, truth)[:, 0] - log_r
        others = scores.scatter(1, truth, -torch.inf).exp().sum(-1)
        loss = others + log_r.exp() * (torch.expm1(excess) - excess)
        return torch.zeros(x_t.shape, dtype=torch.float64, device=x_t.device).masked_scatter(masked, loss)

    def prior_part(self, x_0: Tensor, sigma: Tensor, log_x_0: Tensor | None = None) -> Tensor:
        """Return -alpha log x_0 at the all-masked sequence: the jump at t = 1, which unmasks with probability alpha.

        The prior is then the all-masked sequence before that jump, so the divergence is finite if alpha(1) > 0.
        Without a network's `log_x_0` [B, L, dim] at all masks, alpha must be negligible and the part is zero.
        """
        alpha = torch.exp(-per_token(check_sigma("sigma", sigma), x_0)).expand(x_0.shape)
        if log_x_0 is None:
            return torch.zeros_like(alpha)
        return -alpha * log_x_0.to(torch.float64).gather(-1, x_0[..., None])[..., 0]
