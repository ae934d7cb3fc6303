"""Losses of single tokens, of logits float32 or float64 [n, V] over data tokens, with their gradient in closed form.

They are the losses of `objectives.losses` for rows of logits, written so that a head and its loss need no logits of a whole
batch: each function overwrites its logits, so that chunks of rows share one buffer. Sums over the vocabulary are in the dtype
of the logits; the entries of the clean and of the noisy token, which decide the accuracy, are float64.

    cross_entropy    log sum_y e^(z_y) - z_x0
    absorbing_score  sum over y != x0 of e^(z_y - c) + r phi(d), d = z_x0 - c - log r
    uniform_score    (1 / V) [a sum over y != x_t, x0 of phi(z_y - s - log a) + (x_t != x0) (1 / rho) phi(z_x0 - s + log rho)]
    mixture          w sum over y != x_t of a_y phi(log s_y - log a_y), s and a the ratios of noisy probabilities (UDLM, GIDD)

with phi(e) = exp(e) - 1 - e.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RowLoss = Callable[[Tensor, Tensor | None, list[Tensor]], tuple[Tensor, Tensor | None]]
"""Function of logits [n, V], which it overwrites, of weights float64 [n] and of scalars [n] of each row.

It returns values float64 [n], and with weights the gradient [n, V] of the sum of weight times value.
"""


@dataclass(frozen=True)
class Rows:
    """Tokens of a batch of `shape` [B, L] that have a loss: int64 [K], their positions in the flattened batch."""

    index: Tensor
    shape: torch.Size

    def at(self, values: Tensor) -> Tensor:
        """Return the values [B] or [B, L] at these tokens, [K]."""
        if values.dim() == 1:
            return values.index_select(0, self.index // self.shape[1])
        return values.expand(self.shape).reshape(-1).index_select(0, self.index)


@dataclass(frozen=True)
class RowTerms:
    """Terms of a loss at the K tokens of a batch [B, L] that have one, for the network's outputs there.

    Fields:
        kind: name of the row loss in ROW_LOSSES; scalars: its arguments, [K] each.
        index: int64 [K], positions of the tokens in the flattened batch.
        factor: float64 [K], the weights of the row losses in the bound; even_factor: those under `loss_weighting: uniform`.
    """

    kind: str
    scalars: list[Tensor]
    index: Tensor
    factor: Tensor
    even_factor: Tensor


def cross_entropy(z: Tensor, weight: Tensor | None, scalars: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return the cross-entropy of tokens x_0; scalars: x_0 int64 [n]."""
    (x_0,) = scalars
    own = _at(z, x_0)
    top = z.amax(1)
    total = z.sub_(top[:, None]).exp_().sum(1).double()
    value = total.log() + (top.double() - own)
    if weight is None:
        return value, None
    z.mul_((weight / total).to(z.dtype)[:, None])
    return value, z.scatter_add_(1, x_0[:, None], -weight.to(z.dtype)[:, None])


def absorbing_score(z: Tensor, weight: Tensor | None, scalars: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return SEDD's score entropy at a mask; scalars: x_0, then shift c and log r, r = 1 / (exp(sigma) - 1), float64 [n]."""
    x_0, shift, log_r = scalars
    excess = _at(z, x_0) - shift - log_r
    top = z.amax(1)
    z.sub_(top[:, None]).exp_().scatter_(1, x_0[:, None], 0.0)
    scale = torch.exp(top.double() - shift)
    value = z.sum(1).double() * scale + log_r.exp() * (torch.expm1(excess) - excess)
    if weight is None:
        return value, None
    z.mul_((weight * scale).to(z.dtype)[:, None])
    own = weight * log_r.exp() * torch.expm1(excess)
    return value, z.scatter_(1, x_0[:, None], own.to(z.dtype)[:, None])


def uniform_score(z: Tensor, weight: Tensor | None, scalars: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return SEDD's score entropy under uniform noise; scalars: x_t, x_0, then the shift s and log rho, float64 [n].

    rho = (1 - alpha) / (1 - alpha + V alpha) is the ratio of another token's probability to the clean one's.
    """
    x_t, x_0, shift, log_rho = scalars
    clean = x_t == x_0
    log_a = torch.where(clean, log_rho, 0.0)
    own = _at(z, x_0) - shift + log_rho
    z.sub_((shift + log_a).to(z.dtype)[:, None])
    z.scatter_(1, x_t[:, None], 0.0).scatter_(1, x_0[:, None], 0.0)
    rise = torch.expm1(z)
    others = log_a.exp() * torch.sub(rise, z, out=z).sum(1).double()
    truth = torch.where(clean, 0.0, torch.exp(-log_rho) * (torch.expm1(own) - own))
    share = 1.0 / z.shape[1]
    value = share * (others + truth)
    if weight is None:
        return value, None
    at_own = torch.where(clean, 0.0, share * weight * torch.exp(-log_rho) * torch.expm1(own))
    rise.mul_((share * weight * log_a.exp()).to(z.dtype)[:, None])
    return value, rise.scatter_(1, x_0[:, None], at_own.to(z.dtype)[:, None])


def mixture(z: Tensor, weight: Tensor | None, scalars: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return the bound of a network that predicts the clean token, under noise that is equal at all data tokens.

    Scalars: x_t, x_0 int64 [n], x_t = V at a mask; then, float64 [n], with m_d the noise at a data token, m_M at the mask and
    m_z at x_t: the rate w of noise into x_t, log(alpha / m_d), log(m_d / m_z), and m_M / m_d (0 without a mask).

    With l_y = log(1 + x_y alpha / m_d) the noisy probabilities are m_d exp(l_y) at data tokens, for the network's x and for
    the truth, whose l is 0 but at x_0.
    """
    x_t, x_0, rate, odds, at_noisy, mask_share = scalars
    is_data, same = x_t < z.shape[1], x_t == x_0
    noisy = torch.where(is_data, x_t, x_0)
    own, other = _at(z, x_0), _at(z, noisy)
    top = z.amax(1)
    total = z.sub_(top[:, None]).exp_().sum(1).double()
    log_total = total.log() + top.double()
    z.mul_((odds.exp() / total).to(z.dtype)[:, None])  # x_y alpha / m_d

    true_own = torch.nn.functional.softplus(odds)
    excess_own = torch.log1p(torch.expm1(own - log_total) * torch.sigmoid(odds))  # l - l* at x_0
    excess_noisy = torch.where(same, excess_own, torch.nn.functional.softplus(other - log_total + odds))
    excess_noisy = torch.where(is_data, excess_noisy, 0.0)  # l - l* at x_t
    true_noisy = torch.where(same, true_own, 0.0)
    scale = rate * torch.exp(at_noisy - true_noisy)

    level = torch.log1p(z).sub_(excess_noisy.to(z.dtype)[:, None])
    level.scatter_(1, x_0[:, None], 0.0).scatter_(1, noisy[:, None], 0.0)
    rise = torch.expm1(level)
    value = scale * torch.sub(rise, level, out=level).sum(1).double()
    step = excess_own - excess_noisy
    at_own = torch.where(same, 0.0, rate * torch.exp(at_noisy + true_own))
    value = value + at_own * (torch.expm1(step) - step)
    at_mask = torch.where(is_data, rate * mask_share * torch.exp(-true_noisy), 0.0)
    value = value + at_mask * (torch.expm1(-excess_noisy) + excess_noisy)
    if weight is None:
        return value, None

    rise.mul_((weight * scale).to(z.dtype)[:, None])
    of_own = weight * at_own * torch.expm1(step)
    of_noisy = -(rise.sum(1).double() + of_own + weight * at_mask * torch.expm1(-excess_noisy))
    rise.scatter_(1, x_0[:, None], torch.where(same, of_noisy, of_own).to(z.dtype)[:, None])
    rise.scatter_(1, noisy[:, None], torch.where(is_data, of_noisy, of_own).to(z.dtype)[:, None])
    torch.add(z, 1.0, out=level)
    rise.mul_(z).div_(level)  # by d l / d log x
    spread = -rise.sum(1).double() * torch.exp(-odds)
    return value, rise.add_(z.mul_(spread.to(z.dtype)[:, None]))


def _at(z: Tensor, tokens: Tensor) -> Tensor:
    """Return the entries of z [n, V] at tokens int64 [n], float64 [n]."""
    return z.gather(1, tokens[:, None])[:, 0].double()


ROW_LOSSES: dict[str, RowLoss] = {
    "cross_entropy": cross_entropy,
    "absorbing_score": absorbing_score,
    "uniform_score": uniform_score,
    "mixture": mixture,
}
