"""The family of forward processes: every token is independently kept or replaced by noise.

At noise level sigma a token x has become y with probability

    q_sigma(y | x) = exp(-sigma) [y = x] + m_sigma(y),

so the noise m, which does not depend on x, defines the process. The rate matrix per unit of sigma is
Q(x -> y) = w_sigma(y) - [y = x] with weights w that sum to one. With constant w the noise is (1 - exp(-sigma)) w (the
uniform and the absorbing process of Lou et al. 2024). A process whose mixture changes with sigma (von Ruette et al.
2025) overrides `noise`, `noise_rate` and `noise_between`; everything else here holds for it.

Scores are ratios s_y = p_sigma(x with y at one position) / p_sigma(x), with s_x = 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from model_factory.diffusion.errors import (
    SettingError,
    ShapeError,
    check_count,
    check_entries,
    check_sigma,
    check_tokens,
)
from model_factory.diffusion.randomness import Randomness, uniform

if TYPE_CHECKING:
    from model_factory.diffusion.processes.noise_schedule import NoiseSchedule

_TRACE = 1e-12  # least fraction of a token's probability that counts as clean
_SMALLEST = 1e-300


def per_token(values: Tensor, tokens: Tensor) -> Tensor:
    """Append axes to values of shape [B] or [B, L] until they broadcast against `tokens` of shape [B, L].

    Raises ShapeError if they cannot.
    """
    fits = values.ndim <= tokens.ndim and all(
        size in (1, expected) for size, expected in zip(values.shape, tokens.shape, strict=False)
    )
    if not fits:
        raise ShapeError("sigma", tuple(values.shape), f"one level for each row or token of {tuple(tokens.shape)}")
    return values.reshape(values.shape + (1,) * (tokens.ndim - values.ndim))


class EvenNoise(NamedTuple):
    """Noise that is equal at all data tokens, float64 of the shape of sigma or [].

    Probabilities of one data token and of the mask by noise, and the entries of the rate matrix's weights there; a process
    without a mask has zeros for it.
    """

    data: Tensor
    mask: Tensor
    data_rate: Tensor
    mask_rate: Tensor


class Graph:
    """Forward process over `dim` states; this base class mixes every token towards a constant `limit`.

    Arguments:
        num_tokens: number N of data tokens, 0 .. N - 1; the mask, if there is one, is token N.
        limit: [N] or [N + 1] probabilities of a fully noised token: the weights w of the rate matrix.
    In methods of tokens and sigma, sigma has the shape of the tokens or of their first axes.
    Raises SettingError for sizes that do not fit.
    """

    absorbing: ClassVar[bool] = False

    def __init__(self, num_tokens: int, limit: Tensor) -> None:
        check_count("num_tokens", num_tokens)
        if limit.ndim != 1 or limit.shape[0] not in (num_tokens, num_tokens + 1):
            raise SettingError("limit", f"shape {tuple(limit.shape)}", f"[{num_tokens}] or [{num_tokens + 1}]")
        if not (bool((limit >= 0).all()) and 0 < float(limit.sum()) < torch.inf):
            raise SettingError("limit", limit.tolist(), "probabilities")
        self.num_tokens, self.dim = num_tokens, limit.shape[0]
        self.limit = limit.to(torch.float64) / limit.to(torch.float64).sum()
        self._copies: dict[torch.device, Tensor] = {}
        self.mask_token: int | None = num_tokens if self.dim > num_tokens else None

    def is_masked(self, tokens: Tensor) -> Tensor:
        """Return bool of the shape of `tokens`, True at masks; all False in a process without a mask."""
        return tokens >= self.num_tokens

    def at_pace(self, pace: "NoiseSchedule") -> "tuple[Graph, NoiseSchedule]":
        """Return the process and noise schedule for a base schedule `pace`; overridden if the mixture changes with sigma."""
        return self, pace

    def conditioning_level(self, sigma: Tensor, given: Tensor | None) -> Tensor:
        """Return the noise level for a network, of sigma [B] or [B, L]: [B, L], with 0 at given tokens.

        `given` is bool [B, L], True at tokens that are kept clean, such as a prompt; None: no such tokens. A mask shows
        that a token is noised; under other noise only its level shows the network that a given token is clean, and
        without it samples do not follow p(x_0 | given tokens). Under absorbing noise sigma is returned as it is.
        """
        if given is None or self.absorbing:
            return sigma
        return torch.where(given, 0.0, per_token(sigma, given))

    # Noise, which defines the process.

    def limit_on(self, device: torch.device) -> Tensor:
        """Return the limit [dim] on a device, to which it is copied once, as each copy makes the host wait."""
        if self.limit.device == device or torch.compiler.is_compiling():
            return self.limit.to(device)
        if device not in self._copies:
            self._copies[device] = self.limit.to(device)
        return self._copies[device]

    def noise(self, sigma: Tensor) -> Tensor:
        """Return the probabilities of each state by noise, [..., dim], summing to 1 - exp(-sigma)."""
        return -torch.expm1(-sigma)[..., None] * self.limit_on(sigma.device)

    def noise_rate(self, sigma: Tensor | None = None) -> Tensor:
        """Return the weights w of the rate matrix at `sigma`, [..., dim], summing to one."""
        return self.limit if sigma is None else self.limit_on(sigma.device)

    def noise_between(self, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the noise added from sigma - dsigma to sigma, [..., dim], summing to 1 - exp(-dsigma)."""
        return self.noise(dsigma)

    def even_noise(self, sigma: Tensor) -> EvenNoise | None:
        """Return the noise at sigma, of any shape, at one data token and at the mask, if all data tokens have equal noise; else None.

        A subclass that changes the noise defines it anew: one that is inherited is not used.
        """
        return None

    # Rates and transitions, in rows (from given tokens) and columns (into given tokens).

    def rate(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return rates Q(tokens -> y) per unit of sigma, [..., dim]; raise TokenError."""
        check_tokens("tokens", tokens, self.dim)
        weights = self.noise_rate(None if sigma is None else per_token(sigma, tokens)).to(tokens.device)
        return weights - self._one_hot(tokens)

    def rate_into(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return rates Q(y -> tokens) per unit of sigma, [..., dim]; raise TokenError."""
        check_tokens("tokens", tokens, self.dim)
        weights = self.noise_rate(None if sigma is None else per_token(sigma, tokens)).to(tokens.device)
        return self._at(weights, tokens)[..., None] - self._one_hot(tokens)

    def transition(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        """Return probabilities q_sigma(y | tokens), [..., dim]; raise TokenError and SigmaError."""
        check_tokens("tokens", tokens, self.dim)
        sigma = per_token(check_sigma("sigma", sigma), tokens)
        return self.noise(sigma) + torch.exp(-sigma)[..., None] * self._one_hot(tokens)

    def transition_into(self, tokens: Tensor, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return probabilities q(tokens at sigma | y at sigma - dsigma) for each y, [..., dim].

        Without `sigma` the interval starts at zero. Raises TokenError and SigmaError.
        """
        check_tokens("tokens", tokens, self.dim)
        dsigma = per_token(check_sigma("dsigma", dsigma), tokens)
        added = self.noise_between(dsigma, None if sigma is None else per_token(sigma, tokens))
        return self._at(added, tokens)[..., None] + torch.exp(-dsigma)[..., None] * self._one_hot(tokens)

    def sample_transition(self, x_0: Tensor, sigma: Tensor, generator: Randomness = None) -> Tensor:
        """Draw noisy tokens of the shape of x_0, exact in float64; raise TokenError and SigmaError."""
        check_tokens("x_0", x_0, self.dim)
        sigma = per_token(check_sigma("sigma", sigma), x_0)
        replaced = uniform(x_0.shape, generator, x_0.device) < -torch.expm1(-sigma)
        return torch.where(replaced, self.sample_noise(x_0, sigma, generator), x_0)

    def sample_noise(self, tokens: Tensor, sigma: Tensor, generator: Randomness = None) -> Tensor:
        """Draw a replacement for each token at `sigma`, int64 of their shape.

        For a constant mixture the draws are from the limit.
        """
        return self.sample_limit(tokens.shape, generator, tokens.device)

    def sample_limit(
        self, shape: Sequence[int], generator: Randomness = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Draw tokens of the given shape from the prior."""
        cumulative = self.limit_on(torch.device(device)).cumsum(0)
        draws = uniform(shape, generator, device) * cumulative[-1]
        return torch.searchsorted(cumulative, draws, right=True).clamp_max(self.dim - 1)

    # Reverse process.

    def staggered_score(self, score: Tensor, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return p_{sigma - dsigma}(y) / p_sigma(x) from the score at sigma, both [..., dim]: exp(-dsigma Q) s.

        Raises SigmaError and ShapeError.
        """
        dsigma = self._check_stagger(score, dsigma)
        sigma = None if sigma is None else per_token(sigma, score[..., 0])
        total = score.to(torch.float64).sum(-1, keepdim=True)
        lost = -torch.expm1(-dsigma)[..., None]
        # With mix = noise_between / lost, (s - noise_between * total) / keep is written so that s near 1 remains near 1.
        mix = torch.where(
            lost > 0, self.noise_between(dsigma, sigma) / lost.clamp_min(_SMALLEST), self.limit_on(score.device)
        )
        return mix * total + (score - mix * total) * torch.exp(dsigma)[..., None]

    def reverse_rate(self, x: Tensor, score: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return rates of the time-reversed process, s_y Q(y -> x) off the diagonal, rows summing to zero, [..., dim].

        Per unit of sigma: multiply by d sigma / dt for rates per unit of time. Raises TokenError and ShapeError.
        """
        check_entries("score", score, x, self.dim)
        own = x[..., None]
        rates = (self.rate_into(x, sigma) * score.to(torch.float64)).scatter(-1, own, 0.0)
        return rates.scatter(-1, own, -rates.sum(-1, keepdim=True))

    def reverse_posterior(self, x_0: Tensor, x_t: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior at sigma_next, for x_0 [..., dim] the distribution of the clean token given the others.

        q(y | x_t) is proportional to q(x_t | y) (exp(-sigma_next) x_0(y) + m(y)): Austin et al. 2021, Schiff et al.
        2024. Returns the probability [...] that the token changes and the weights [..., dim], not normalised, of its new
        state.
        """
        sigma, sigma_next = per_token(sigma, x_t), per_token(sigma_next, x_t)
        earlier = torch.exp(-sigma_next)[..., None] * x_0 + self.noise(sigma_next)
        return leave_or_stay(earlier * self.transition_into(x_t, sigma - sigma_next, sigma), x_t)

    # Network targets: distribution of the clean token and score, each from the other, as logarithms [..., dim].

    def clean_log_probs(self, logits: Tensor, x_t: Tensor) -> Tensor:
        """Return log-probabilities [..., dim] of the clean token from logits [..., dim]; -inf for the mask."""
        log_x_0 = torch.log_softmax(logits[..., : self.num_tokens].to(torch.float64), -1)
        return torch.nn.functional.pad(log_x_0, (0, self.dim - self.num_tokens), value=-torch.inf)

    def log_score_from_x0(self, log_x_0: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return the score [..., dim] from the distribution [..., dim] of the clean token given the *other* tokens.

        It is the ratio of entries of exp(-sigma) x_0 + m.
        """
        sigma = per_token(sigma, x_t)
        log_p = torch.logaddexp(log_x_0.to(torch.float64) - sigma[..., None], self.noise(sigma).log())
        return log_p - log_p.gather(-1, x_t[..., None])

    def log_x0_from_score(self, log_score: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Invert `log_score_from_x0`, [..., dim]; probabilities that a wrong score makes negative become a small trace.

        The relative error is float64's divided by exp(-sigma): about seven digits remain at sigma = 20.
        """
        sigma = per_token(sigma, x_t)
        p = torch.softmax(log_score.to(torch.float64), -1)
        # The trace, near the rounding error, keeps losses and gradients of an inaccurate network finite.
        x_0 = torch.maximum(p - self.noise(sigma), _TRACE * p)[..., : self.num_tokens]
        total = x_0.sum(-1, keepdim=True)
        x_0 = torch.where(total > 0, x_0 / total.clamp_min(_SMALLEST), 1.0 / self.num_tokens)
        log_x_0 = torch.where(x_0 > 0, x_0.clamp_min(_SMALLEST).log(), -torch.inf)
        return torch.nn.functional.pad(log_x_0, (0, self.dim - self.num_tokens), value=-torch.inf)

    # Losses per token, [...].

    def score_entropy(self, log_score: Tensor, sigma: Tensor, x_t: Tensor, x_0: Tensor) -> Tensor:
        """Return the score entropy of each token in nats per unit of sigma (Lou et al. 2024), zero at the true ratio.

        The sum over y != x of Q(y -> x) [s_y - a_y log s_y + a_y (log a_y - 1)] with a_y = q(y | x_0) / q(x | x_0),
        written as a (exp(d) - 1 - d) with d = log s - log a, which is accurate near its zero.

        Arguments:
            log_score: [B, L, dim]; the entry of x_t is ignored.
            sigma: [B] or [B, L]; x_t, x_0: [B, L] token ids.
        Returns: [B, L] float64. Raises TokenError, SigmaError and ShapeError.
        """
        self._check_pair(log_score, x_t, x_0)
        check_tokens("x_0", x_0, self.dim)
        sigma = per_token(check_sigma("sigma", sigma), x_t)
        own = x_t[..., None]
        log_a = self.transition(x_0, sigma).log()
        log_a = log_a - log_a.gather(-1, own)
        excess = (log_score.to(torch.float64) - log_a).scatter(-1, own, 0.0)
        weight = self._at(self.noise_rate(sigma), x_t)
        return weight * (log_a.exp() * (torch.expm1(excess) - excess)).sum(-1)

    def prior_part(self, x_0: Tensor, sigma: Tensor, log_x_0: Tensor | None = None) -> Tensor:
        """Return KL(q_sigma(. | x_0) || prior) of each token in nats, float64 of the shape of x_0.

        `log_x_0` [..., dim] is a network's, which this class does not need. Raises TokenError, SigmaError and ShapeError.
        """
        q = self.transition(x_0, sigma)
        return (q * (q / self.limit_on(q.device)).log()).sum(-1).clamp_min(0)

    def _check_stagger(self, score: Tensor, dsigma: Tensor) -> Tensor:
        """Return dsigma as float64 that broadcasts against score[..., 0]."""
        tokens = score[..., 0]
        check_entries("score", score, tokens, self.dim)
        return per_token(check_sigma("dsigma", dsigma), tokens)

    def _check_pair(self, log_score: Tensor, x_t: Tensor, x_0: Tensor) -> None:
        check_tokens("x_t", x_t, self.dim)
        check_entries("log_score", log_score, x_t, self.dim)
        if x_0.shape != x_t.shape:
            raise ShapeError("x_0", f"shape {list(x_0.shape)}", f"{list(x_t.shape)}, the shape of x_t")

    def _one_hot(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(tokens.long(), self.dim).to(torch.float64)

    def _at(self, weights: Tensor, tokens: Tensor) -> Tensor:
        """Gather entries of [..., dim] weights at the tokens, broadcast to their shape."""
        return weights.expand(*tokens.shape, self.dim).gather(-1, tokens[..., None].long())[..., 0]


def leave_or_stay(weights: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Split weights [..., dim] of the next token into the probability of leaving x and the weights of other tokens.

    The probability is summed from the weights of leaving, not 1 - staying, so that rare moves keep their precision.
    """
    stay = weights.gather(-1, x[..., None])[..., 0]
    leave = weights.scatter(-1, x[..., None], 0.0)
    total = leave.sum(-1)
    return total / (total + stay), leave
