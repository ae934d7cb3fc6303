"""Checks of the arguments of a diffusion model; errors name the argument, the value given and the values expected."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.transformer.inputs import InputError, check_mask, describe, has_values, is_integer
from model_factory.diffusion.errors import (
    LengthError,
    ShapeError,
    SigmaError,
    TokenError,
    check_integers,
    check_sigma,
    check_tokens,
)

if TYPE_CHECKING:
    from model.discrete.types import ConditionConfig


def check_data(input_ids: Tensor, attention_mask: Tensor | None, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Return tokens, int64 [B, L], and the mask of real tokens, bool [B, L]; the mask may be int, as from collators.

    Raises InputError unless input_ids is int [B, L], with at least one row and token, and the mask has its shape;
    TokenError if a real token is not in the vocabulary.
    """
    if not is_integer(input_ids) or input_ids.dim() != 2:
        raise InputError(f"input_ids is {describe(input_ids)}; expected int [B, L]")
    if 0 in input_ids.shape:
        raise InputError(f"input_ids is {describe(input_ids)}; expected at least one row of one token")
    if isinstance(attention_mask, Tensor) and attention_mask.dtype in (torch.int64, torch.int32):
        attention_mask = attention_mask.bool()
    check_mask(attention_mask, input_ids, "attention_mask")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
    check_tokens("input_ids", input_ids.masked_fill(~mask, 0), num_tokens)
    return input_ids.long(), mask


def given_tokens(real: Tensor, response_mask: Tensor | None) -> Tensor | None:
    """Return the real tokens that are no response, bool [B, L], of two masks bool [B, L]; None without such tokens."""
    if response_mask is None:
        return None
    given = real & ~response_mask
    return given if bool(given.any()) else None


def check_rows(rows: Tensor | None, input_ids: Tensor) -> Tensor:
    """Return the rows' indices in the global batch, int [B], by default from 0; raise ShapeError for another shape."""
    if rows is None:
        return torch.arange(len(input_ids), device=input_ids.device)
    check_integers("rows", rows)
    if rows.shape != input_ids.shape[:1]:
        raise ShapeError("rows", f"shape {list(rows.shape)}", f"[{len(input_ids)}], one for each row of input_ids")
    return rows.to(input_ids.device)


def check_noisy(x_t: Tensor, dim: int, *, ends: bool = False) -> None:
    """Raise ShapeError unless x_t is int [B, L], TokenError for ids that are not states of the process.

    With `ends` negative ids are the positions after the end of a row.
    """
    if not is_integer(x_t) or x_t.dim() != 2:
        raise ShapeError("x_t", describe(x_t), "int [B, L]")
    if has_values(x_t):
        check_tokens("x_t", x_t.clamp_min(0) if ends else x_t, dim)


def check_level(sigma: Tensor | float, x_t: Tensor) -> Tensor:
    """Return sigma, a number or [B] or [B, L], as a tensor [B] or [B, L].

    Raises ShapeError for another shape, SigmaError unless it is finite and not negative everywhere.
    """
    if not isinstance(sigma, Tensor | float | int):
        raise SigmaError("sigma", describe(sigma) if sigma is not None else "None", "the noise level, [B] or [B, L]")
    sigma = torch.as_tensor(sigma, device=x_t.device)
    shapes = (x_t.shape[:1], x_t.shape)
    if sigma.dim() and sigma.shape not in shapes:
        raise ShapeError(
            "sigma", describe(sigma), f"{list(shapes[0])}, one per row, or {list(shapes[1])}, one per token"
        )
    if has_values(sigma):
        check_sigma("sigma", sigma)
    return sigma if sigma.dim() else sigma.expand(x_t.shape[0])


def check_condition(condition: "ConditionConfig | None", cond: Tensor | None, rows: int) -> None:
    """Raise InputError, LengthError, ShapeError or TokenError unless `cond` has a condition of the section for each row.

    Classes are int [rows], with `num_classes` as the null condition; properties float [rows, size], with NaN as the null
    condition.
    """
    if cond is None:
        return
    if condition is None:
        raise InputError("cond is given, but the model's section has no condition")
    fits = f"int [{rows}]" if condition.num_classes is not None else f"float [{rows}, {condition.size}]"
    dims = 1 if condition.num_classes is not None else 2
    has_kind = is_integer(cond) if dims == 1 else isinstance(cond, Tensor) and cond.is_floating_point()
    if not has_kind or cond.dim() != dims:
        raise ShapeError("cond", describe(cond), fits)
    if cond.shape[0] != rows:
        raise LengthError("cond", f"{cond.shape[0]} rows", f"{rows}, one for each row")
    if dims == 2 and cond.shape[1] != condition.size:
        raise ShapeError("cond", describe(cond), fits)
    if condition.num_classes is not None and has_values(cond) and cond.numel():
        low, high = (int(bound) for bound in torch.aminmax(cond))
        if low < 0 or high > condition.num_classes:
            classes = f"classes from 0 to {condition.num_classes - 1}, or {condition.num_classes} for no condition"
            raise TokenError("cond", f"class {low if low < 0 else high}", classes)
