"""Sources of a conditional diffusion model: their encoding, and the rows from which training leaves them out."""

from typing import Any

import torch
from torch import Tensor, nn

from model.transformer.inputs import InputError, check_mask, describe, is_integer

Context = dict[str, Any]
"""Keywords `context` float [B, M, width] and `context_mask` bool [B, M] of a denoiser; empty without an encoder."""


def encode_source(network: nn.Module, ids: Tensor | None, mask: Tensor | None, *, has_encoder: bool) -> Context:
    """Encode sources int [B, M] by `network.source`; mask bool [B, M] is True at real tokens.

    Raises InputError for a source without an encoder, an encoder without a source, and for wrong shapes.
    """
    if ids is None:
        if has_encoder:
            raise InputError("the backbone has an encoder, which needs a source: context_ids, int [B, M]")
        return {}
    if not has_encoder:
        raise InputError("context_ids are given, but the backbone has no encoder; put the source in front of the row")
    if not is_integer(ids) or ids.dim() != 2 or 0 in ids.shape:
        raise InputError(f"context_ids is {describe(ids)}; expected int [B, M]")
    check_mask(mask, ids, "context_mask")
    source: Any = network.source
    found = {"context": source(ids, mask)}
    return found if mask is None else found | {"context_mask": mask}


def null_source(network: nn.Module, rows: int) -> Tensor:
    """Return the learned context [rows, 1, width] of rows without their source."""
    source: Any = network.source
    return source.null.expand(rows, 1, -1)  # type: ignore[no-any-return]


def drop_sources(network: nn.Module, context: Context, prompt: Tensor | None, dropped: Tensor) -> dict[str, Tensor]:
    """Leave the sources of the rows `dropped`, bool [B, 1], out.

    Arguments:
        context: of all rows, in which the null context takes the place of a dropped one.
        prompt: bool [B, L], the tokens that are given; without a context those of dropped rows are hidden.
    Returns the context, or the hidden tokens, as keywords of the network.
    """
    if not context:
        assert prompt is not None
        return {"hidden": prompt & dropped}
    read = torch.where(dropped[..., None], null_source(network, len(dropped)), context["context"])
    first = torch.arange(read.shape[1], device=read.device) == 0  # the null context is one vector
    seen = context.get("context_mask", torch.ones_like(read[..., 0], dtype=torch.bool))
    return {"context": read, "context_mask": torch.where(dropped, first, seen)}
