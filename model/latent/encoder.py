"""Encoder of texts: any network over tokens, a pooler, and a linear layer to mean and log-variance."""

from contextlib import nullcontext
from math import log
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.latent.checks import check_ids, check_length, max_positions_of
from model.transformer.inputs import InputError, describe, has_values, is_integer
from model.transformer.performer import PerformerEncoder

FIRST_VARIANCE = 0.008
"""Initial value of a learnt variance, the published fixed one. Starting from 1, noise dominates the latent, and the
decoder learns to ignore it before the encoder has learnt anything (posterior collapse)."""


class Encoded(NamedTuple):
    """Hidden states [B, N, width], and their pooled vector [B, width] after and before the pooler's linear layer."""

    sequence: Tensor
    pooled: Tensor
    unpooled: Tensor


class WideLinear(nn.Linear):
    """Linear layer without bias in float32 or wider, under autocast and with narrower weights too.

    Latents are divided by their spread, which is small beside their mean: that would enlarge their rounding.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in_features] to float32 or float64 [..., out_features]."""
        dtype = torch.promote_types(torch.promote_types(x.dtype, self.weight.dtype), torch.float32)
        with without_autocast(x.device):
            return F.linear(x.to(dtype), self.weight.to(dtype))


def without_autocast(device: torch.device) -> "torch.autocast | nullcontext[None]":
    """Return a context without autocast on a device; it does nothing where autocast is off."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


class LatentEncoder(nn.Module):
    """Encoder called as `(input_ids, attention_mask)`; `linear(pooled).chunk(2, -1)` is mu and logvar of the latent.

    `backbone` is an encoder of Hugging Face or a `PerformerEncoder`. Without a mask, all tokens but `pad_id` are real.
    With `top_layer` only that layer, the pooler and `linear` are trained: the backbone is frozen.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pooler: nn.Module,
        width: int,
        latent_size: int,
        *,
        pad_id: int | None = None,
        top_layer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.latent_size, self.pad_id = latent_size, pad_id
        self.backbone, self.top_layer, self.pooler = backbone, top_layer, pooler
        self.linear = WideLinear(width, 2 * latent_size)
        if top_layer is not None:
            backbone.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Encoded:
        """Encode int [B, N]; attention_mask [B, N] is nonzero at real tokens.

        Raises InputError for a text without tokens.
        """
        mask = self._mask(input_ids, attention_mask)
        hidden = self._hidden(input_ids, mask)
        if self.top_layer is not None:
            hidden = self.top_layer(hidden, src_key_padding_mask=~mask)
        return Encoded(hidden, *self._pool(hidden, mask))

    def moments(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar [B, latent_size] of texts; arguments as in `forward`."""
        mu, logvar = self.linear(self(input_ids, attention_mask).pooled).chunk(2, -1)
        return mu, logvar + log(FIRST_VARIANCE)

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        if isinstance(self.backbone, PerformerEncoder):
            return self.backbone.hidden(ids, mask)
        backbone: Any = self.backbone
        check_ids(ids.masked_fill(~mask, 0), backbone.get_input_embeddings().num_embeddings)
        check_length(ids.shape[1], max_positions_of(backbone.config), "encoder")
        hidden: Tensor = self.backbone(input_ids=ids.masked_fill(~mask, 0), attention_mask=mask.long())[0]
        return hidden

    def _pool(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled vector [B, width] and that before the linear layer; raise InputError for another shape."""
        dtype = next((p.dtype for p in self.pooler.parameters()), hidden.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        with without_autocast(hidden.device):
            if dtype == wide:
                pooled = self.pooler(hidden.to(wide), mask)
            else:  # weights of a model that is cast as a whole
                weights = {name: held.to(wide) for name, held in self.pooler.named_parameters()}
                pooled = torch.func.functional_call(self.pooler, weights, (hidden.to(wide), mask))
        pooled, unpooled = (pooled, pooled) if isinstance(pooled, Tensor) else pooled
        expected = [len(hidden), self.linear.in_features]
        if list(pooled.shape) != expected:
            raise InputError(
                f"the pooler {type(self.pooler).__name__} returns {describe(pooled)}; it must be {expected}"
            )
        return pooled, unpooled

    def _mask(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mask of real tokens, bool [B, N]; raise InputError for empty texts and wrong shapes."""
        if not is_integer(ids) or ids.dim() != 2 or ids.shape[1] == 0:
            raise InputError(f"the encoder's input is {describe(ids)}, and token ids, int [B, N] with N > 0, fit")
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool) if self.pad_id is None else ids != self.pad_id
        elif mask.shape != ids.shape:
            raise InputError(f"attention_mask is {describe(mask)}, and the tokens are {describe(ids)}")
        mask = mask.bool()
        if has_values(mask) and not bool(mask.any(1).all()):
            empty = (~mask.any(1)).nonzero()[:, 0].tolist()
            raise InputError(
                f"texts {empty[:5]} of the batch are empty: all their tokens are padding"
                + (f" (pad_id {self.pad_id})" if self.pad_id is not None else "")
                + "; drop them, or add a first token"
            )
        return mask


def top_layer(config: Any) -> nn.TransformerEncoderLayer:
    """Build a post-norm layer (Vaswani et al. 2017) to train on a frozen model, as its Hugging Face config describes one.

    Taken from the config are the sizes, the activation, the dropout of states and of attention, and the eps of the norms.
    """
    from transformers.activations import ACT2FN

    dropout = getattr(config, "hidden_dropout_prob", 0.1)
    eps = (getattr(config, name, None) for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_eps"))
    layer = nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        dropout=dropout,
        activation=ACT2FN[getattr(config, "hidden_act", "gelu")],
        layer_norm_eps=next((value for value in eps if value is not None), 1e-5),
        batch_first=True,
    )
    layer.self_attn.dropout = getattr(config, "attention_probs_dropout_prob", dropout)
    return layer
