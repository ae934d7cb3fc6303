"""A linear head and its loss without logits of a whole batch: chunks of rows share one buffer, and nothing of them is kept.

The sum of weighted row losses is computed together with its gradient, so that backward multiplies by one number. This needs
the weights before the network runs, which a training step has; per-row gradients and second derivatives are not available.
The operator is opaque to torch.compile.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from model_factory.diffusion.objectives.row_losses import ROW_LOSSES, RowTerms

_NUMBERS = {"cpu": 1 << 22}
"""Logits of a chunk: 16 MB in float32 on the CPU, where larger chunks save no time; 1 GB on a device."""
_NUMBERS_ON_DEVICE = 1 << 28
_FEWEST_ROWS, _MOST_ROWS = 32, 4096
Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class HeadWeights(NamedTuple):
    """Weights of a linear head: table [V, width] and bias [V] or None."""

    table: Tensor
    bias: Tensor | None = None


def head_weights(head: nn.Module | None) -> HeadWeights | None:
    """Return the weights of a head that is nothing but them: a plain nn.Linear without hooks; None for any other head.

    An adapted (LoRA), a quantised or a parametrised head is of another type.
    """
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head):
        return None
    return HeadWeights(head.weight, head.bias)


def head_loss(
    hidden: Tensor, head: HeadWeights, terms: RowTerms, weight: Tensor, num_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the sum of weight times row loss, float64 [], and the row losses, float64 [K] without a gradient.

    Arguments:
        hidden: [..., width] states, whose rows `terms.index` have a loss; head: of all data tokens first.
        weight: float64 [K] weights of the rows in the sum.
        num_tokens: V, the number of data tokens; further outputs of the head, such as a mask's, have no part in the loss.
    Under autocast the products are in its dtype, and the losses in float32.
    """
    rows = hidden.flatten(0, -2).index_select(0, terms.index)
    kind = rows.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.table.dtype
    is_trained = torch.is_grad_enabled()
    wants = [is_trained and x is not None and x.requires_grad for x in (rows, *head)]
    size = num_tokens or len(head.table)
    total, values, *_ = _head_loss(
        rows, *head, weight, terms.scalars, terms.kind, size, str(dtype).removeprefix("torch."), wants
    )
    return total, values


@torch.library.custom_op("model_factory::head_loss", mutates_args=())
def _head_loss(
    rows: Tensor,
    table: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    scalars: list[Tensor],
    kind: str,
    num_tokens: int,
    dtype: str,
    wants: list[bool],
) -> Result:
    """Return the weighted sum, the row losses, and the gradients of rows, table and bias that are wanted (else empty)."""
    loss, product = ROW_LOSSES[kind], getattr(torch, dtype)
    exact = torch.float64 if product == torch.float64 else torch.float32
    used = table[:num_tokens].to(product)
    shift = None if bias is None else bias[:num_tokens].to(exact)
    of_rows, of_table, of_bias = _empty_gradients(rows, table, bias, wants)
    summed = of_table if of_table.dtype == exact else torch.zeros_like(of_table, dtype=exact)
    values = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    size = chunk_rows(num_tokens, rows.device.type)
    is_trained = any(wants)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        states = rows[part].to(product)
        logits = (states @ used.T).to(exact)
        if shift is not None:
            logits += shift
        values[part], gradient = loss(
            logits, weight[part] if is_trained else None, [scalar[part] for scalar in scalars]
        )
        if gradient is None:
            continue
        of_logits = gradient.to(product)
        if wants[0]:
            of_rows[part] = of_logits @ used
        if wants[1]:
            _add_product(summed[:num_tokens], of_logits, states)
        if wants[2]:
            of_bias[:num_tokens] += gradient.sum(0)
    if summed is not of_table:
        of_table.copy_(summed)
    return (values * weight).sum(), values, of_rows, of_table, of_bias


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right to `total` in place, in its precision."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
    else:
        total += (left.T @ right).to(total.dtype)


def _empty_gradients(rows: Tensor, table: Tensor, bias: Tensor | None, wants: list[bool]) -> tuple[Tensor, ...]:
    like = (rows, table, rows.new_empty(0) if bias is None else bias)
    return tuple(torch.zeros_like(x) if want else x.new_empty(0) for x, want in zip(like, wants, strict=True))


def chunk_rows(num_tokens: int, device: str) -> int:
    """Return the rows of a chunk of logits over `num_tokens`."""
    return min(max(_NUMBERS.get(device, _NUMBERS_ON_DEVICE) // num_tokens, _FEWEST_ROWS), _MOST_ROWS)


@_head_loss.register_fake
def _(rows, table, bias, weight, scalars, kind, num_tokens, dtype, wants):  # type: ignore[no-untyped-def]
    found = _empty_gradients(rows, table, bias, wants)
    return weight.new_empty(()), weight.new_empty(rows.shape[0]), *found  # len() would fix the number in a graph


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    ctx.wants = inputs[8]
    ctx.count = len(inputs[4])
    ctx.save_for_backward(*output[2:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    none = (None,) * 9
    if gradient is None:
        return none
    # Scaled in place, which spares a copy of the table; a second backward is refused by autograd's version check.
    found = [
        x.mul_(gradient.to(x.dtype)) if want else None for x, want in zip(ctx.saved_tensors, ctx.wants, strict=True)
    ]
    return (*found, None, [None] * ctx.count, None, None, None, None)


_head_loss.register_autograd(_backward, setup_context=_setup_context)


def _flops(
    rows: Any, table: Any, bias: Any, weight: Any, scalars: Any, kind: str, num_tokens: int, *rest: Any, **_: Any
) -> int:
    """Count the products of head and gradients: 2 n D V each."""
    wants = rest[1]
    return int(2 * rows[0] * rows[1] * num_tokens * (1 + wants[0] + wants[1]))


register_flop_formula(torch.ops.model_factory.head_loss)(_flops)
