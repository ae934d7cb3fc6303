"""Stack of pre-norm layers (arXiv 2002.04745), the base of the Performer encoder and decoder."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.activations import ActivationFunctions
from model.attention.decoding_state import CoreState, DecodingState, LayerState
from model.attention.documents import Documents
from model.attention.feature_maps import RandomFeatures
from model.attention.feature_redraw import FeatureRedraw
from model.attention.multi_head import MultiHeadAttention
from model.attention.rotary import Rotation, rotary_angles, rotation_at
from model.core_registry import core_entry
from model.device import resolve_device
from model.head_loss import HeadWeights, head_weights
from model.transformer.inputs import InputEmbedding, InputError, check_context, check_documents, check_mask
from model.transformer.norms import Residual, make_norm
from model.types import PerformerParams

# Position-wise feed-forward layer, plain or gated (GLU variants: Shazeer 2020, arXiv 2002.05202).


ACTIVATIONS: dict[ActivationFunctions, Callable[[Tensor], Tensor]] = {
    ActivationFunctions.GELU: F.gelu,
    ActivationFunctions.GELU_TANH: partial(F.gelu, approximate="tanh"),
    ActivationFunctions.RELU: F.relu,
    ActivationFunctions.SILU: F.silu,
    ActivationFunctions.GEGLU: F.gelu,
    ActivationFunctions.REGLU: F.relu,
    ActivationFunctions.SWIGLU: F.silu,
}
"""Function of each activation; the gated ones apply it to the gate alone."""


class FeedForward(nn.Module):
    """Two projections with an activation between them; the inner width is `d_ff * d_model`.

    With a gated activation the first projection has twice that width, and is split into a value and its gate.
    """

    is_positionwise = True

    def __init__(self, params: PerformerParams) -> None:
        super().__init__()
        inner = params.d_ff * params.d_model
        self.is_gated = params.activation.is_gated
        self.activation = ACTIVATIONS[params.activation]
        self.to_inner = nn.Linear(params.d_model, 2 * inner if self.is_gated else inner)
        self.dropout = nn.Dropout(params.dropout)
        self.to_out = nn.Linear(inner, params.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position independently: [..., d_model] to [..., d_model]."""
        inner = self.to_inner(x)
        if self.is_gated:
            value, gate = inner.chunk(2, dim=-1)
            inner = value * self.activation(gate)
        else:
            inner = self.activation(inner)
        out: Tensor = self.to_out(self.dropout(inner))
        return out


class TransformerLayer(nn.Module):
    """Self-attention, optional cross-attention, and the feed-forward layer, each with a residual connection.

    `params.attention_type` is that of this layer alone (`PerformerParams.of_layer`).
    """

    def __init__(self, params: PerformerParams, *, cross_attention: bool) -> None:
        super().__init__()
        self.always_causal = core_entry(params.attention_types[0]).direction == "causal"
        self.self_attention = Residual(MultiHeadAttention(params), params)
        self.cross_attention = Residual(MultiHeadAttention(params), params) if cross_attention else None
        self.feed_forward_between: Residual | None = (
            None  # set by some loaded checkpoints: `model.checkpoints.extra_parts`
        )
        self.feed_forward = Residual(FeedForward(params), params)

    def forward(
        self,
        x: Tensor,
        context: Tensor | CoreState | None = None,
        *,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        causal: bool,
        rotation: Rotation | None = None,
        cache: CoreState | None = None,
        kv_prefix: Tensor | None = None,
        documents: Documents | None = None,
        context_rotation: Rotation | None = None,
    ) -> Tensor:
        """Map x [B, N, d_model] to the same shape; `context` is [B, M, d_model], `rotation` of x's positions.

        With `context_rotation`, of the context's positions, cross-attention knows the distance of two positions.

        While decoding, `cache` and `context` are the states of this layer; `kv_prefix` replaces the keys and values of
        the first positions, and `documents` isolates those of packed rows (`MultiHeadAttention.forward`).
        """
        own = {"cache": cache, "kv_prefix": kv_prefix, "documents": documents}
        x = self.self_attention(x, key_mask=mask, causal=causal or self.always_causal, rotation=rotation, **own)
        if self.feed_forward_between is not None:
            x = self.feed_forward_between(x)
        if self.cross_attention is not None:
            turns = {} if context_rotation is None else {"rotation": rotation, "key_rotation": context_rotation}
            x = self.cross_attention(x, context, key_mask=context_mask, **turns)
        out: Tensor = self.feed_forward(x)
        return out

    def new_state(self, context: Tensor | None, context_mask: Tensor | None, capacity: int) -> LayerState:
        """Return an empty state for decoding, with the keys and values of the context [B, M, d_model]."""
        cache = _attention_of(self.self_attention).new_state(capacity)
        if context is None or self.cross_attention is None:
            return LayerState(cache, None)
        return LayerState(cache, _attention_of(self.cross_attention).cache_context(context, context_mask))


def _attention_of(residual: Residual) -> MultiHeadAttention:
    return cast(MultiHeadAttention, residual.sublayer)


class PerformerStack(nn.Module):
    """Base of encoder and decoder: input, layers, final norm, head and the redraw of random features.

    It is built on the device of `params`. Raises DeviceError if this machine lacks it. With `rotates_context`, rotary
    positions turn the queries and the keys of cross-attention too.
    """

    def __init__(
        self, params: PerformerParams, *, has_head: bool, cross_attention: bool, rotates_context: bool = False
    ) -> None:
        super().__init__()
        self.params = params
        self.has_cross_attention, self.rotates_context = cross_attention, rotates_context
        self.has_head = has_head and params.vocab_size is not None
        with resolve_device(params.device):
            self.input = InputEmbedding(params)
            self.layers = nn.ModuleList(
                TransformerLayer(params.of_layer(index), cross_attention=cross_attention)
                for index in range(params.num_layers)
            )
            self.final_norm = make_norm(params)
            self.head = self._make_head(params) if self.has_head else None
            is_random = any(isinstance(module, RandomFeatures) for module in self.modules())
            self.feature_redraw = FeatureRedraw(self, interval=params.feature_redraw_interval) if is_random else None

    def _make_head(self, params: PerformerParams) -> nn.Linear | None:
        """Return an untied head, or None if the token embedding is the head too."""
        if params.tie_embeddings and self.input.embedding is not None:
            return None
        return nn.Linear(params.d_model, params.vocab_size, bias=params.head_bias)  # type: ignore[arg-type]

    def transformer_layers(self) -> list[TransformerLayer]:
        """Return the layers in order."""
        return cast(list[TransformerLayer], list(self.layers))

    def redraw_projections(self) -> None:
        """Draw new random features in every layer now; do nothing in a stack without them."""
        if self.feature_redraw is not None:
            self.feature_redraw.redraw()

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head: [B, N, d_model] to [B, N, vocab_size], or unchanged in a model without a head."""
        if not self.has_head:
            return hidden
        embedding = self.input.embedding
        if self.head is None and embedding is not None:
            return F.linear(hidden, embedding.weight)
        out: Tensor = self.head(hidden)  # type: ignore[misc]
        return out

    @property
    def output_head(self) -> HeadWeights | None:
        """Weights of the head, or of the embedding that it is tied to; None without a head and for an adapted one."""
        embedding = self.input.embedding
        if self.has_head and self.head is None and type(embedding) is nn.Embedding:
            return HeadWeights(embedding.weight)
        return head_weights(self.head)

    def _check_context(self, x: Tensor, context: Tensor | None, context_mask: Tensor | None) -> None:
        if isinstance(x, Tensor) and x.dim() > 0:  # the input layer reports anything else that is wrong with x
            check_context(context, x.shape[0], self.params.d_model, wanted=self.has_cross_attention)
        if context is None and context_mask is not None:
            raise InputError("context_mask is given without a context; give both or neither")
        if context is not None:
            check_mask(context_mask, context, "context_mask")

    def _run(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None,
        context_mask: Tensor | None = None,
        causal: bool,
        positions: Tensor | None = None,
        state: DecodingState | None = None,
        kv_prefixes: Sequence[Tensor] | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Map the input to final hidden states; `positions` int64 [B, N]; None: 0..N-1; `kv_prefixes`: one a layer.

        With `documents` int [B, N], positions begin at 0 in each document of a row, and self-attention stays inside it.
        """
        apart = None if documents is None else Documents(check_documents(documents, x))
        positions = positions if apart is None else apart.positions
        x = self.input(x, mask, positions)
        if self.training and self.params.auto_check_redraw and self.feature_redraw is not None:
            self.feature_redraw.count_step()
        rotation = self._rotation(x, positions)
        states = [LayerState(None, context)] * len(self.layers) if state is None else state.layers
        shared: dict[str, Any] = {"mask": mask, "context_mask": context_mask, "causal": causal, "rotation": rotation}
        shared["documents"] = apart
        if self.rotates_context and context is not None and rotation is not None:
            shared["context_rotation"] = rotary_angles(
                context.shape[1], self.params.head_dim, context.device, dtype=rotation[0].dtype
            )
        prefixes = [None] * len(self.layers) if kv_prefixes is None else kv_prefixes
        for layer, (cache, own_context), kv_prefix in zip(self.layers, states, prefixes, strict=True):
            x = layer(x, own_context, cache=cache, kv_prefix=kv_prefix, **shared)
        out: Tensor = self.final_norm(x)
        return out

    def _rotation(self, x: Tensor, positions: Tensor | None) -> Rotation | None:
        if self.params.position != "rotary":
            return None
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        if positions is None:
            return rotary_angles(x.shape[1], self.params.head_dim, x.device, dtype=exact)
        return rotation_at(positions.unsqueeze(1), self.params.head_dim, dtype=exact)  # the same in all heads
