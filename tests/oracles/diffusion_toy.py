"""A toy language of three tokens and three positions, small enough for exact sums.

Every quantity is a sum over all sequences, written from the definitions and not with the code under test: transitions
come from the closed form q = alpha [y = x] + (1 - alpha) pi(y), distributions from Bayes' rule.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

VOCABULARY, LENGTH = 3, 3
SUBSCRIPTS = "abc"


def all_sequences(dim: int) -> Tensor:
    """Return every sequence over `dim` states, [dim^3, 3], in the order of a flattened [dim, dim, dim] array."""
    return torch.tensor(list(product(range(dim), repeat=LENGTH)))


@dataclass(frozen=True)
class Toy:
    """Joint distribution p(x_0), [3, 3, 3] float64, with uniform or absorbing noise."""

    joint: Tensor
    absorbing: bool

    @classmethod
    def random(cls, seed: int, absorbing: bool) -> "Toy":
        """Draw a distribution from a Dirichlet, uneven and with strong dependence between positions."""
        generator = torch.Generator().manual_seed(seed)
        weights = -torch.rand((VOCABULARY,) * LENGTH, generator=generator, dtype=torch.float64).log()
        return cls(weights / weights.sum(), absorbing)

    @property
    def dim(self) -> int:
        return VOCABULARY + self.absorbing

    @cached_property
    def entropy(self) -> float:
        return float(-torch.special.xlogy(self.joint, self.joint).sum())

    @cached_property
    def states(self) -> Tensor:
        return all_sequences(self.dim)

    @cached_property
    def data(self) -> Tensor:
        return all_sequences(VOCABULARY)

    @cached_property
    def rate_matrix(self) -> Tensor:
        """Return Q [dim, dim], from rows to columns."""
        limit = torch.zeros(self.dim, dtype=torch.float64)
        limit[VOCABULARY if self.absorbing else slice(None)] = 1.0 if self.absorbing else 1 / VOCABULARY
        return limit.expand(self.dim, -1) - torch.eye(self.dim, dtype=torch.float64)

    def kernel(self, sigma: Tensor) -> Tensor:
        """Return exp(sigma Q), [..., dim, dim]."""
        one, sigma = torch.eye(self.dim, dtype=torch.float64), sigma[..., None, None]
        return torch.exp(-sigma) * one - torch.expm1(-sigma) * (self.rate_matrix + one)

    def marginal(self, sigma: Tensor) -> Tensor:
        """Return p_sigma(x_t), [dim, dim, dim]."""
        q = self.kernel(sigma)[:VOCABULARY]
        return torch.einsum("abc,ai,bj,ck->ijk", self.joint, q, q, q)

    def scores(self, sigma: Tensor) -> Tensor:
        """Return p_sigma(x with y at position l) / p_sigma(x) for every x, [dim^3, 3, dim]; 0 for an impossible x."""
        p = self.marginal(sigma)
        i, j, k = self.states.T
        rows = torch.stack([p[:, j, k].T, p[i, :, k], p[i, j, :]], 1)
        here = p[i, j, k][:, None, None]
        return torch.where(here > 0, rows / here, 0.0)

    def scores_at(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return the rows of `scores` for sequences x_t [B, 3], [B, 3, dim]."""
        place_values = torch.tensor([self.dim**2, self.dim, 1])
        return self.scores(sigma)[(x_t * place_values).sum(-1)]

    def likelihood(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return q(x_t[l] | v) for each clean token v, [B, 3, 3], with sigma [B] or [B, 3]."""
        q = self.kernel(sigma)[..., :VOCABULARY, :]
        q = q[:, None].expand(-1, LENGTH, -1, -1) if sigma.dim() == 1 else q
        return q.gather(3, x_t[:, :, None, None].expand(-1, -1, VOCABULARY, -1))[..., 0]

    def posterior(self, x_t: Tensor, sigma: Tensor, leave_one_out: bool) -> Tensor:
        """Return p(x_0[l] | x_t), or p(x_0[l] | x_t without position l), [B, 3, 3]; uniform for an impossible x_t."""
        places = self.likelihood(x_t, sigma).unbind(1)
        distributions = []
        for place, letter in enumerate(SUBSCRIPTS):
            seen = [torch.ones_like(v) if leave_one_out and k == place else v for k, v in enumerate(places)]
            probs = torch.einsum(f"abc,na,nb,nc->n{letter}", self.joint, *seen)
            total = probs.sum(-1, keepdim=True)
            distributions.append(torch.where(total > 0, probs / total, 1 / VOCABULARY))
        return torch.stack(distributions, 1)

    def sequence_posterior(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return p(x_0 | x_t) over whole sequences, [B, 3, 3, 3]."""
        probs = torch.einsum("abc,na,nb,nc->nabc", self.joint, *self.likelihood(x_t, sigma).unbind(1))
        return probs / probs.sum((1, 2, 3), keepdim=True)

    def oracle(self, x_t: Tensor, sigma: Tensor, **_: Tensor) -> Tensor:
        """Return the output of the exact network: log p(x_0[l] | the other positions), [B, 3, dim], as logits."""
        return self._as_logits(self.posterior(x_t, sigma, leave_one_out=True))

    def posterior_mean_oracle(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return log E[x_0[l] | x_t], which is exact for masks and wrong for other noise."""
        return self._as_logits(self.posterior(x_t, sigma, leave_one_out=False))

    def _as_logits(self, probs: Tensor) -> Tensor:
        return torch.nn.functional.pad(probs.log(), (0, self.dim - VOCABULARY), value=-torch.inf)

    def given(self, kept: Tensor) -> "Toy":
        """Return the language of the sequences with token 1 at the kept places, bool [3]."""
        matches = (self.data[:, kept] == 1).all(1).reshape(self.joint.shape)
        return replace(self, joint=self.joint * matches / (self.joint * matches).sum())

    def total_variation(self, probs: Tensor) -> float:
        """Return the total variation, 0 to 1, of a distribution over all states, [dim^3], from the data."""
        target = torch.zeros((self.dim,) * LENGTH, dtype=torch.float64)
        target[:VOCABULARY, :VOCABULARY, :VOCABULARY] = self.joint
        return float((probs - target.flatten()).abs().sum() / 2)
