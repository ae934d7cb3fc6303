"""Performer encoder, decoder and encoder-decoder (Choromanski et al. 2021, arXiv 2009.14794), pre-norm.

With `attention_type: softmax` they are the transformer of Vaswani et al. 2017 (arXiv 1706.03762).
Masks are bool [B, N], True at real tokens; what stands at the others never changes an output at a real one.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import MultiHeadAttention
from model.device import resolve_device
from model.feature_maps import RandomFeatures
from model.feature_redraw import FeatureRedraw
from model.feed_forward import FeedForward
from model.inputs import InputEmbedding, InputError, check_context, check_mask
from model.norms import Residual, make_norm
from model.position import Rotation, rotary_angles
from model.types import PerformerParams


class TransformerLayer(nn.Module):
    """Self-attention, attention to a context where there is one, and the feed-forward layer, each a residual.

    `params.attention_type` is the layer's own (`PerformerParams.of_layer`).
    """

    def __init__(self, params: PerformerParams, *, cross_attention: bool) -> None:
        super().__init__()
        self.always_causal = core_entry(params.attention_types[0]).direction == "causal"
        self.self_attention = Residual(MultiHeadAttention(params), params)
        self.cross_attention = Residual(MultiHeadAttention(params), params) if cross_attention else None
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
        seen: CoreState | None = None,
    ) -> Tensor:
        """Map x [B, N, d_model] to the same shape; `context` is [B, M, d_model], `rotation` of x's positions.

        While decoding, `seen` and `context` are this layer's states (`MultiHeadAttention.forward`).
        """
        causal = causal or self.always_causal
        x = self.self_attention(x, key_mask=mask, causal=causal, rotation=rotation, seen=seen)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context, key_mask=context_mask)
        out: Tensor = self.feed_forward(x)
        return out


class PerformerStack(nn.Module):
    """What encoder and decoder share: input, layers, final norm, head and the redraw of random features.

    Built on the device of `params`; raises DeviceError where this machine lacks it.
    """

    def __init__(self, params: PerformerParams, *, has_head: bool, cross_attention: bool) -> None:
        super().__init__()
        self.params = params
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
        """A head of its own, or None where the embedding serves as one and its weight is not to be kept twice."""
        if params.tie_embeddings and self.input.embedding is not None:
            return None
        return nn.Linear(params.d_model, params.vocab_size, bias=False)  # type: ignore[arg-type]

    def redraw_projections(self) -> None:
        """Draw new random features in every layer now; without random features nothing happens."""
        if self.feature_redraw is not None:
            self.feature_redraw.redraw()

    def logits(self, hidden: Tensor) -> Tensor:
        """Head over hidden states: [B, N, d_model] to [B, N, vocab_size], or unchanged in a model without a head."""
        if not self.has_head:
            return hidden
        embedding = self.input.embedding
        if self.head is None and embedding is not None:
            return F.linear(hidden, embedding.weight)
        out: Tensor = self.head(hidden)  # type: ignore[misc]
        return out

    def _run(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None,
        context_mask: Tensor | None = None,
        causal: bool,
    ) -> Tensor:
        x = self.input(x, mask)
        if self.training and self.params.auto_check_redraw and self.feature_redraw is not None:
            self.feature_redraw.count_step()
        rotation = None
        if self.params.position == "rotary":
            rotation = rotary_angles(x.shape[1], self.params.head_dim, x.device)
        for layer in self.layers:
            x = layer(x, context, mask=mask, context_mask=context_mask, causal=causal, rotation=rotation)
        out: Tensor = self.final_norm(x)
        return out

    def _always_causal(self) -> str | None:
        """A core of these layers that sees the past alone whatever is asked, or None."""
        return next((name for name in self.params.attention_types if core_entry(name).direction == "causal"), None)


class PerformerEncoder(PerformerStack):
    """A stack whose tokens see the whole sequence; with `causal_linear` only what came before (streaming).

    `has_head=False` gives hidden states even with a `vocab_size`, as inside an encoder-decoder.
    Raises ValueError for `use_cross_attention`, DeviceError for a device that this machine lacks.
    """

    def __init__(self, params: PerformerParams, *, has_head: bool = True) -> None:
        if params.use_cross_attention:
            raise ValueError("use_cross_attention: an encoder has no context to attend to")
        super().__init__(params, has_head=has_head, cross_attention=False)

    def hidden(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Final hidden states [B, N, d_model], before the head; arguments as in `forward`."""
        return self._run(x, mask=mask, causal=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode x: token ids [B, N], or floats [B, N, d_model] ([B, N, input_dim] where that is set).

        Returns logits [B, N, vocab_size] with a head, else hidden states [B, N, d_model]. Raises InputError.
        """
        return self.logits(self.hidden(x, mask))


class PerformerDecoder(PerformerStack):
    """A stack whose tokens see only earlier ones, and a context if `use_cross_attention`.

    Raises ValueError for bidirectional `linear` attention, DeviceError for a device that this machine lacks.
    """

    def __init__(self, params: PerformerParams) -> None:
        if params.attention_type == "linear":
            raise ValueError("attention_type: linear lets a token see the ones after it; causal_linear fits a decoder")
        super().__init__(params, has_head=True, cross_attention=bool(params.use_cross_attention))

    def hidden(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        use_causal_mask: bool = True,
    ) -> Tensor:
        """Final hidden states [B, N, d_model], before the head; arguments as in `forward`."""
        if not use_causal_mask and self.params.attention_type == "causal_linear":
            raise InputError("use_causal_mask=False: causal_linear attention is causal by construction; softmax fits")
        if isinstance(x, Tensor) and x.dim() > 0:  # what else is wrong with x, the input layer says
            check_context(context, x.shape[0], self.params.d_model, wanted=bool(self.params.use_cross_attention))
        if context is None and context_mask is not None:
            raise InputError("context_mask was given without a context")
        if context is not None:
            check_mask(context_mask, context, "context_mask")
        return self._run(x, context, mask=mask, context_mask=context_mask, causal=use_causal_mask)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        use_causal_mask: bool = True,
    ) -> Tensor:
        """Decode x: token ids [B, N], or floats [B, N, d_model] ([B, N, input_dim] where that is set).

        `context` float [B, M, d_model] with `context_mask` bool [B, M] goes to cross-attention;
        `use_causal_mask=False` lets softmax attention see the whole sequence.
        Returns logits [B, N, vocab_size] with a head, else hidden states [B, N, d_model]. Raises InputError.
        """
        return self.logits(self.hidden(x, context, mask, context_mask, use_causal_mask))


class EncoderDecoderTransformer(nn.Module):
    """An encoder and a decoder that attends to its hidden states; each part may be on a device of its own.

    The decoder always has cross-attention here. Raises ValueError where the parts' widths differ or a part's
    attention does not fit its role, DeviceError for a device that this machine lacks.
    """

    def __init__(self, encoder_params: PerformerParams, decoder_params: PerformerParams) -> None:
        super().__init__()
        if encoder_params.d_model != decoder_params.d_model:
            raise ValueError(
                f"the decoder's d_model {decoder_params.d_model} differs from the encoder's {encoder_params.d_model}"
            )
        self.encoder = PerformerEncoder(encoder_params, has_head=False)
        self.decoder = PerformerDecoder(decoder_params.model_copy(update={"use_cross_attention": True}))

    def redraw_projections(self) -> None:
        """Draw new random features in both parts now."""
        self.encoder.redraw_projections()
        self.decoder.redraw_projections()

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Context [B, M, d_model] of a source, once for any number of decoder calls."""
        return self.encoder.hidden(source, source_mask)

    def hidden(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """The decoder's final hidden states [B, N, d_model], before the head; arguments as in `forward`."""
        context = self.encode(source, source_mask).to(target.device)
        source_mask = None if source_mask is None else source_mask.to(target.device)
        return self.decoder.hidden(target, context, target_mask, source_mask)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Decode target [B, N] or [B, N, width] against source [B, M] or [B, M, width].

        Returns the decoder's logits [B, N, vocab_size], or hidden states without one. Raises InputError.
        """
        return self.decoder.logits(self.hidden(source, target, source_mask, target_mask))
