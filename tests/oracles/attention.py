"""Oracle of attention: quadratic, in float64 and the log domain."""

from functools import partial

import torch
import torch.nn.functional as F


def visible(key_mask, queries, keys, causal):
    """Return bool [B or 1, 1, N, M], True if query n may attend to key m."""
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if causal:
        seen = seen.tril()
    return seen if key_mask is None else seen & key_mask[:, None, None, :]


def from_log_kernel(log_kernel, v, seen):
    """Normalise exp(log_kernel) [B, H, N, M] over visible keys and multiply by v; a row without a key is 0."""
    weights = log_kernel.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.where(seen.any(-1, keepdim=True), weights, 0.0).nan_to_num(0.0) @ v.double()


def softmax_attention(q, k, v, *, key_mask=None, causal):
    """Compute exact attention in float64."""
    log_kernel = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    return from_log_kernel(log_kernel, v, visible(key_mask, q.shape[-2], k.shape[-2], causal))


def log_kernel_favor(q, k, projection):
    """Return log sum_f exp(w_f . q' - |q'|^2 / 2) exp(w_f . k' - |k'|^2 / 2) with q' = q / D^(1/4), the same for k'."""
    q, k = (x.double() * x.shape[-1] ** -0.25 for x in (q, k))
    log_q, log_k = (x @ projection.double().T - x.square().sum(-1, keepdim=True) / 2 for x in (q, k))
    return torch.logsumexp(log_q.unsqueeze(-2) + log_k.unsqueeze(-3), -1)


def log_kernel_relu(q, k, projection):
    """Return the log of the inner products of relu(w . x') + 1e-3."""
    q, k = ((x.double() * x.shape[-1] ** -0.25 @ projection.double().T).relu() + 1e-3 for x in (q, k))
    return (q @ k.mT).log()


def log_kernel_elu(q, k, projection):
    """Return the log of the inner products of elu(x) + 1."""
    return ((F.elu(q.double()) + 1) @ (F.elu(k.double()) + 1).mT).log()


def best_a(square, dimensions):
    """Return the A < 1/8 of least second moment of FAVOR++, by bisection on the sign of the derivative."""

    def slope(a):  # of d log(1 - 4a) - d/2 log(1 - 8a) + 2 (1 - 4a) / (1 - 8a) * square
        return dimensions * (-4 / (1 - 4 * a) + 4 / (1 - 8 * a)) + 8 * square / (1 - 8 * a) ** 2

    low, high = -1e6, 0.125 - 1e-9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low


def log_kernel_fitted(q, k, projection, moments, *, diagonal):
    """Return the log kernel of FAVOR++, or with `diagonal` of FAVOR#: x is scaled, and A differs by coordinate."""
    square_q, square_k, mean_q, mean_k = moments.double().unbind(1)  # [H, D] each
    stretch = (square_k / square_q) ** 0.25 if diagonal else torch.ones_like(square_q)
    squares = (stretch**2 * square_q + square_k / stretch**2 + 2 * mean_q * mean_k) / q.shape[-1] ** 0.5
    if diagonal:
        a = squares.clone().apply_(lambda square: best_a(square, 1))
    else:
        a = torch.stack([torch.full_like(row, best_a(row.sum().item(), len(row))) for row in squares])
    omega, a, stretch = projection.double(), a[:, None], stretch[:, None]  # [m, D], [H, 1, D]
    q, k = (x.double() * x.shape[-1] ** -0.25 for x in (q, k))
    log_q, log_k = (
        (a * omega**2).sum(-1)[:, None] + (x * (1 - 4 * a).sqrt()) @ omega.T - x.square().sum(-1, keepdim=True) / 2
        for x in (q * stretch, k / stretch)
    )
    return torch.logsumexp(log_q.unsqueeze(-2) + log_k.unsqueeze(-3), -1)


LOG_KERNELS = {
    "favor+": log_kernel_favor,
    "favor++": partial(log_kernel_fitted, diagonal=False),
    "favor#": partial(log_kernel_fitted, diagonal=True),
    "relu": log_kernel_relu,
    "elu": log_kernel_elu,
}


def linear_attention(q, k, v, *, feature_map, projection, moments=None, key_mask=None, causal):
    """Compute attention with a feature map's kernel in float64; `moments` [H, 4, D] are for the fitted maps."""
    fitted = () if moments is None else (moments,)
    log_kernel = LOG_KERNELS[feature_map](q, k, projection, *fitted)
    return from_log_kernel(log_kernel, v, visible(key_mask, q.shape[-2], k.shape[-2], causal))
