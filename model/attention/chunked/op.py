"""Linear attention as a custom operator with fake tensors, autograd and FLOP counts; opaque to torch.compile.

Forward saves the inputs, the output, the denominators and the state at the start of each group of chunks; backward
recomputes everything else. Second derivatives are not available, and the kernel has no gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from model.attention.chunked import run
from model.attention.chunked.features import Kernel
from model.attention.chunked.flops import backward_flops, forward_flops, needed_backward_flops
from model.attention.chunked.inputs import Inputs
from model.attention.chunked.state import Borders

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("model_factory::linear_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    log_scale: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    bias: Tensor | None,
    square: Tensor | None,
    kind: str,
    is_causal: bool,
    keep: bool,
) -> Outputs:
    """Return out, denominators and, with `keep`, the states that backward starts from."""
    inputs = Inputs(q, k, v, key_mask, log_scale, Kernel(kind, q_weight, k_weight, bias, square))
    out, denominators, borders = run.forward(inputs, is_causal=is_causal, keep=keep)
    return out, denominators, *borders


@torch.library.custom_op("model_factory::linear_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    saved: list[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    log_scale: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    bias: Tensor | None,
    square: Tensor | None,
    kind: str,
    is_causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and log_scale; `saved` are the outputs of forward."""
    inputs = Inputs(q, k, v, key_mask, log_scale, Kernel(kind, q_weight, k_weight, bias, square))
    out, denominators, *kept = saved
    of_q, of_k, of_v, of_scale = run.backward(inputs, gradient, out, denominators, Borders(*kept), is_causal=is_causal)
    return of_q, of_k, of_v, of_scale


@_forward.register_fake
def _(q, k, v, key_mask, log_scale, q_weight, k_weight, bias, square, kind, is_causal, keep):  # type: ignore[no-untyped-def]
    inputs = Inputs(q, k, v, key_mask, log_scale, Kernel(kind, q_weight, k_weight, bias, square))
    return *run.allocate_outputs(inputs), *run.allocate_borders(inputs, is_causal=is_causal, keep=keep)


@_backward.register_fake
def _(gradient, saved, q, k, v, key_mask, log_scale, *kernel_and_form):  # type: ignore[no-untyped-def]
    return tuple(run.allocate_gradients(Inputs(q, k, v, key_mask, log_scale, Kernel("identity"))))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.save_for_backward(*inputs[:9], *output)
    ctx.kind, ctx.is_causal = inputs[9:11]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # the saved states are large, and zeros for them would be too


def _backward_of(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 12
    tensors = ctx.saved_tensors
    q, k, v, log_scale = _backward(gradient, list(tensors[9:]), *tensors[:9], ctx.kind, ctx.is_causal)
    return q, k, v, None, log_scale if tensors[4] is not None else None, *[None] * 7


_forward.register_autograd(_backward_of, setup_context=_setup_context)
register_flop_formula(torch.ops.model_factory.linear_attention)(forward_flops)
register_flop_formula(torch.ops.model_factory.linear_attention_backward)(backward_flops)
NEEDED_FLOPS = {torch.ops.model_factory.linear_attention_backward: needed_backward_flops}
"""FLOPs without what is recomputed, for MFU."""


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel: Kernel,
    *,
    key_mask: Tensor | None = None,
    log_scale: Tensor | None = None,
    causal: bool,
) -> Tensor:
    """Compute out_i = sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j), over the keys visible to i.

    q [B, H, N, D], k [B, H, M, D], v [B, H, M, E]; M = N if `causal`. `key_mask` bool [B, M] is True at real
    keys; `log_scale` [B, H, M] multiplies phi(k_j) by its exp. Returns [B, H, N, E] in v's dtype, 0 in rows without a
    key. Computed in float32, in float64 for float64 inputs. Rows whose denominator float32 cannot hold are computed in
    float64 on a CPU; on other devices they exist in causal attention alone, and are 0 or nearly so.
    Raises ValueError for causal attention of N queries to other than N keys.
    """
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(f"causal attention needs a key for each query; got {q.shape[2]} queries and {k.shape[2]} keys")
    needs_gradient = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, log_scale))
    out: Tensor = _forward(q, k, v, key_mask, log_scale, *kernel[1:], kernel.kind, causal, needs_gradient)[0]
    return out
