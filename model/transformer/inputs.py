"""Checks of inputs (token ids or float features, masks, context), and their embedding into the residual stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from model.types import PerformerParams


class InputError(ValueError):
    """An input that the model cannot take; the message says what was given and what is expected."""


def describe(value: object) -> str:
    """Describe a tensor as `int64 [2, 7]`, and anything else by its type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"


def is_integer(value: object) -> TypeGuard[Tensor]:
    """Return True for a tensor of integers, of any shape: neither floating point nor complex, and not bool."""
    if not isinstance(value, Tensor):
        return False
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def check_mask(mask: Tensor | None, x: Tensor, name: str) -> None:
    """Raise InputError unless `mask` is None or bool [B, N] for x [B, N, ...]."""
    if mask is None:
        return
    shape = list(x.shape[:2])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or list(mask.shape) != shape:
        hint = f"; use {name}.bool()" if isinstance(mask, Tensor) and list(mask.shape) == shape else ""
        raise InputError(f"{name} must be bool {shape}, True at real tokens; got {describe(mask)}{hint}")


def check_documents(documents: Tensor, x: Tensor) -> Tensor:
    """Return `documents`, the number of each token's document; raise InputError unless it is int [B, N] for x [B, N, ...]."""
    shape = list(x.shape[:2])
    is_int = isinstance(documents, Tensor) and not documents.is_floating_point() and documents.dtype != torch.bool
    if not is_int or list(documents.shape) != shape:
        raise InputError(
            f"documents must be int {shape}, the number of each token's document; got {describe(documents)}"
        )
    return documents


def check_context(context: Tensor | None, batch: int, d_model: int, *, wanted: bool) -> None:
    """Raise InputError unless there is a context float [batch, M, d_model] exactly if one is `wanted`."""
    if context is None:
        if wanted:
            raise InputError(f"a stack with cross-attention needs context, float [{batch}, M, {d_model}]")
        return
    if not wanted:
        raise InputError(
            f"context is {describe(context)}, and this stack has no cross-attention; set use_cross_attention: true"
        )
    given = context.shape
    if context.dim() != 3 or not context.is_floating_point() or given[0] != batch or given[2] != d_model:
        raise InputError(f"context must be float [{batch}, M, {d_model}]; got {describe(context)}")


class InputEmbedding(nn.Module):
    """Embedding of token ids [B, N] or floats [B, N, width] to [B, N, d_model], with optional learned positions.

    With `input_dim`, floats of that width are projected; with `vocab_size` alone, ids are embedded.
    """

    def __init__(self, params: PerformerParams) -> None:
        super().__init__()
        self.vocab_size = params.vocab_size
        self.max_length = params.max_length
        self.width = params.input_dim or params.d_model
        self.embedding: nn.Embedding | None = None
        self.projection: nn.Linear | None = None
        self.position: nn.Parameter | None = None
        if params.input_dim is not None:
            self.projection = nn.Linear(params.input_dim, params.d_model)
        elif params.vocab_size is not None:
            self.embedding = nn.Embedding(params.vocab_size, params.d_model)
            # Rows of norm 1: as a tied head they give logits of unit variance.
            nn.init.normal_(self.embedding.weight, std=params.d_model**-0.5)
        if params.position == "absolute":
            assert params.max_length is not None  # PerformerParams refuses a file without
            self.position = nn.Parameter(torch.empty(params.max_length, params.d_model))
            nn.init.normal_(self.position, std=params.d_model**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Embed x; `mask` bool [B, N] is True at real tokens, and values at padding are ignored.

        `positions` int64 [B, N] are the positions in the sequence; None: 0..N-1.
        Raises InputError, which says what was given and what is expected.
        """
        self._check(x)
        check_mask(mask, x, "mask")
        if x.is_floating_point():
            # Zeros, so that even a NaN in the padding cannot reach a real token.
            x = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)
            x = x if self.projection is None else self.projection(x)
        else:
            x = self._embed(x.long() if mask is None else x.long().masked_fill(~mask, 0))
        if self.position is None:
            return x
        return x + (self.position[: x.shape[1]] if positions is None else F.embedding(positions, self.position))

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.dtype == torch.bool or x.is_complex():
            raise InputError(f"input must be {self._expected()}; got {describe(x)}")
        is_ids = not x.is_floating_point()
        if is_ids and self.embedding is None and x.dim() == 2:
            remedy = "input_dim excludes token ids" if self.projection else "set vocab_size in the model's section"
            raise InputError(
                f"input is token ids, {describe(x)}, and the model has no embedding: {remedy}, or give "
                f"{self._expected()}"
            )
        if x.dim() != (2 if is_ids else 3) or (not is_ids and x.shape[2] != self.width) or x.shape[1] == 0:
            raise InputError(f"input must be {self._expected()}; got {describe(x)}")
        if self.max_length is not None and x.shape[1] > self.max_length:
            raise InputError(f"the sequence has {x.shape[1]} positions, and max_length is {self.max_length}")

    def _expected(self) -> str:
        floats = f"float [B, N, {self.width}]"
        return floats if self.embedding is None else f"token ids, int [B, N], or {floats}"

    def _embed(self, ids: Tensor) -> Tensor:
        assert self.embedding is not None
        if (
            has_values(ids) and ids.numel() and not _are_checked.get()
        ):  # on CUDA a lookup out of range crashes the whole process
            check_ids(ids, self.vocab_size)  # type: ignore[arg-type]
        return F.embedding(ids, self.embedding.weight)


_are_checked: ContextVar[bool] = ContextVar("token ids are checked", default=False)


@contextmanager
def checked_ids() -> Iterator[None]:
    """Skip the checks of token ids inside this block, as they are known to be in range: on a device they wait for it."""
    before = _are_checked.set(True)
    try:
        yield
    finally:
        _are_checked.reset(before)


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise InputError unless ids int, of any shape, are from 0 to vocab_size - 1."""
    low, high = (int(bound) for bound in torch.stack(ids.aminmax()).tolist())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is out of range: vocab_size is {vocab_size}, ids start at 0")


def has_values(x: Tensor) -> bool:
    """Return False while a graph is traced or captured, where reading a value of x, of any shape, would break it."""
    if torch.compiler.is_compiling() or x.is_meta or isinstance(x, FakeTensor):
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
