"""Attention written out in full, in float64 and the log domain: what every faster form must agree with."""

import torch
import torch.nn.functional as F


def visible(key_mask, queries, keys, causal):
    """Bool [B or 1, 1, N, M], True where query n may see key m."""
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if causal:
        seen = seen.tril()
    return seen if key_mask is None else seen & key_mask[:, None, None, :]


def from_log_kernel(log_kernel, v, seen):
    """Rows of exp(log_kernel) [B, H, N, M] where `seen`, each normalised, times v; a row that sees nothing is 0."""
    weights = log_kernel.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.where(seen.any(-1, keepdim=True), weights, 0.0).nan_to_num(0.0) @ v.double()


def softmax_attention(q, k, v, *, key_mask=None, causal):
    """Exact attention, float64."""
    log_kernel = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    return from_log_kernel(log_kernel, v, visible(key_mask, q.shape[-2], k.shape[-2], causal))


def log_kernel_favor(q, k, projection):
    """log sum_f exp(w_f . q' - |q'|^2 / 2) exp(w_f . k' - |k'|^2 / 2) with q' = q / D^(1/4), the same for k'."""
    q, k = (x.double() * x.shape[-1] ** -0.25 for x in (q, k))
    log_q, log_k = (x @ projection.double().T - x.square().sum(-1, keepdim=True) / 2 for x in (q, k))
    return torch.logsumexp(log_q.unsqueeze(-2) + log_k.unsqueeze(-3), -1)


def log_kernel_relu(q, k, projection):
    """log of the inner products of relu(w . x') + 1e-3."""
    q, k = ((x.double() * x.shape[-1] ** -0.25 @ projection.double().T).relu() + 1e-3 for x in (q, k))
    return (q @ k.mT).log()


def log_kernel_elu(q, k, projection):
    """log of the inner products of elu(x) + 1."""
    return ((F.elu(q.double()) + 1) @ (F.elu(k.double()) + 1).mT).log()


LOG_KERNELS = {"favor+": log_kernel_favor, "relu": log_kernel_relu, "elu": log_kernel_elu}


def linear_attention(q, k, v, *, feature_map, projection, key_mask=None, causal):
    """Attention under a feature map's kernel, quadratic, float64."""
    log_kernel = LOG_KERNELS[feature_map](q, k, projection)
    return from_log_kernel(log_kernel, v, visible(key_mask, q.shape[-2], k.shape[-2], causal))
