"""Performer encoder, decoder and encoder-decoder (Choromanski et al. 2021, arXiv 2009.14794), pre-norm.

With `attention_type: softmax` they are the transformer of Vaswani et al. 2017 (arXiv 1706.03762).
Masks are bool [B, N], True at real tokens; values at padding never change an output at a real token.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from model.attention.decoding_state import DecodingState, align_left
from model.core_registry import first_of_direction
from model.head_loss import HeadWeights
from model.transformer.generation import GenerationOptions, evaluating, generate
from model.transformer.inputs import InputError, check_mask, describe
from model.transformer.stack import PerformerStack
from model.types import PerformerParams
from model_factory.diffusion.randomness import Randomness


class PerformerEncoder(PerformerStack):
    """A stack whose tokens see the whole sequence; with `causal_linear` only earlier tokens (streaming).

    With `has_head=False` it returns hidden states even with a `vocab_size`, as inside an encoder-decoder. With
    `cross_attention` its layers also attend to a context, whose positions are rotary too: in a row of masks alone they
    are all that tells one position from another.
    Raises ValueError for `use_cross_attention`, DeviceError for a device that this machine lacks.
    """

    def __init__(self, params: PerformerParams, *, has_head: bool = True, cross_attention: bool = False) -> None:
        if params.use_cross_attention:
            raise ValueError("use_cross_attention: an encoder has no context to attend to")
        super().__init__(params, has_head=has_head, cross_attention=cross_attention, rotates_context=cross_attention)

    def hidden(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the final hidden states [B, N, d_model], before the head; arguments as in `forward`."""
        self._check_context(x, context, context_mask)
        return self._run(x, context, mask=mask, context_mask=context_mask, causal=False, documents=documents)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Encode x: token ids [B, N], or floats [B, N, d_model] ([B, N, input_dim] if that is set).

        `documents` int [B, N] numbers the documents of packed rows: each is encoded as if it were alone, from position 0.
        `context` float [B, M, d_model] with `context_mask` bool [B, M] goes to cross-attention.
        Returns logits [B, N, vocab_size] with a head, else hidden states [B, N, d_model]. Raises InputError.
        """
        return self.logits(self.hidden(x, mask, documents, context, context_mask))


class PerformerDecoder(PerformerStack):
    """A stack whose tokens see only earlier ones, and a context if `use_cross_attention`.

    Raises ValueError for bidirectional `linear` attention, DeviceError for a device that this machine lacks.
    """

    def __init__(self, params: PerformerParams) -> None:
        wrong = first_of_direction(params, "bidirectional")
        if wrong is not None:
            raise ValueError(
                f"attention_type: {wrong} lets a token see the ones after it; use causal_linear in a decoder"
            )
        super().__init__(params, has_head=True, cross_attention=bool(params.use_cross_attention))

    def hidden(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        use_causal_mask: bool = True,
        *,
        kv_prefixes: Sequence[Tensor] | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the final hidden states [B, N, d_model], before the head; arguments as in `forward`.

        `kv_prefixes`, [B, num_kv_heads, P, head_dim] for each layer, are keys and values of the first P positions.
        """
        causal_core = None if use_causal_mask else first_of_direction(self.params, "causal")
        if causal_core is not None:
            raise InputError(f"use_causal_mask=False: {causal_core} attention is always causal; use softmax")
        self._check_context(x, context, context_mask)
        return self._run(
            x,
            context,
            mask=mask,
            context_mask=context_mask,
            causal=use_causal_mask,
            kv_prefixes=kv_prefixes,
            documents=documents,
        )

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        use_causal_mask: bool = True,
        *,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Decode x: token ids [B, N], or floats [B, N, d_model] ([B, N, input_dim] if that is set).

        `context` float [B, M, d_model] with `context_mask` bool [B, M] goes to cross-attention;
        `use_causal_mask=False` lets softmax attention see the whole sequence; `documents` int [B, N] numbers the
        documents of packed rows, each of which is decoded as if it were alone, from position 0.
        Returns logits [B, N, vocab_size] with a head, else hidden states [B, N, d_model]. Raises InputError.
        """
        return self.logits(self.hidden(x, context, mask, context_mask, use_causal_mask, documents=documents))

    def start(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        capacity: int = 0,
        kv_prefixes: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, DecodingState]:
        """Process prompts x, as in `forward`, for decoding token by token.

        Rows shorter than N are padded on either side, where `mask` is False, and positions count their real tokens.
        kv caches reserve `capacity` positions for further tokens. Returns the logits (or hidden states) of each row's
        last token, [B, vocab_size], and the state for `step`; `kv_prefixes` is as in `hidden`. Raises InputError.
        """
        self._check_context(x, context, context_mask)
        if mask is not None:
            check_mask(mask, x, "mask")
            x, mask = align_left(x, mask)
        layers = [layer.new_state(context, context_mask, capacity) for layer in self.transformer_layers()]
        longest = x.shape[1]
        lengths = torch.full(x.shape[:1], longest, device=x.device) if mask is None else mask.sum(1)
        state = DecodingState(layers, lengths, longest)
        hidden = self._run(x, mask=mask, causal=True, state=state, kv_prefixes=kv_prefixes)  # [B, N, d_model]
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        return self.logits(last), state

    def step(self, x: Tensor, state: DecodingState) -> Tensor:
        """Process one more token of each row: ids [B, 1], or floats [B, 1, width] as in `forward`.

        Returns its logits (or hidden state) [B, vocab_size], and changes `state`. Raises InputError.
        """
        if x.shape[1:2] != (1,):
            raise InputError(f"input is {describe(x)}, and a step takes one token of each row: [B, 1]")
        if self.params.max_length is not None and state.longest >= self.params.max_length:
            raise InputError(
                f"the sequence has {state.longest + 1} positions, and max_length is {self.params.max_length}"
            )
        hidden = self._run(x, mask=None, causal=True, positions=state.lengths.unsqueeze(1), state=state)
        state.lengths, state.longest = state.lengths + 1, state.longest + 1
        return self.logits(hidden[:, 0])

    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int = 1,
        eos_token: int | None = None,
        generator: Randomness = None,
        mask: Tensor | None = None,
        *,
        pad_token: int | None = None,
        length_penalty: float = 0.0,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        watch: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Continue prompts int [B, N]; return prompts and continuations, int64 [B, N + T] with T <= max_new_tokens.

        Prompts of different lengths are padded on either side, where `mask` bool [B, N] is False; the continuation
        begins at column N in every row. `temperature=0.0` is greedy; the options are those of
        `model.transformer.generation`. A row that has ended is padded with `pad_token`, or else with `eos_token`.
        `context` and `context_mask` are as in `forward`; `watch` is called with the new tokens after each of them.
        Raises InputError.
        """
        options = GenerationOptions(
            max_new_tokens, temperature, top_k, top_p, num_beams, eos_token, pad_token, length_penalty, generator, watch
        )
        return generate(self, tokens, options, mask=mask, context=context, context_mask=context_mask)


class EncoderDecoderTransformer(nn.Module):
    """An encoder and a decoder that attends to its hidden states; the parts may be on different devices.

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

    @property
    def output_head(self) -> HeadWeights | None:
        """Weights of the decoder's head over what `hidden` returns; None without a head and for an adapted one."""
        return self.decoder.output_head

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Encode a source once, for any number of decoder calls; return the context [B, M, d_model]."""
        return self.encoder.hidden(source, source_mask)

    def hidden(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the decoder's final hidden states [B, N, d_model], before the head; arguments as in `forward`."""
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

        Returns the decoder's logits [B, N, vocab_size], or hidden states without a head. Raises InputError.
        """
        return self.decoder.logits(self.hidden(source, target, source_mask, target_mask))

    def generate(
        self,
        source: Tensor,
        tokens: Tensor | int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int = 1,
        eos_token: int | None = None,
        generator: Randomness = None,
        mask: Tensor | None = None,
        source_mask: Tensor | None = None,
        *,
        pad_token: int | None = None,
        length_penalty: float = 0.0,
        watch: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Continue target prompts `tokens` int [B, N] against `source` [B, M] or [B, M, width], encoded once.

        `tokens` may be one id, the first token of every row. `source_mask` bool [B, M] is of the source, `mask` bool
        [B, N] of the prompts; other arguments and the result are as in `PerformerDecoder.generate`.
        """
        options = GenerationOptions(
            max_new_tokens, temperature, top_k, top_p, num_beams, eos_token, pad_token, length_penalty, generator, watch
        )
        device = next(self.decoder.parameters()).device
        if isinstance(tokens, int):
            tokens = torch.full((source.shape[0], 1), tokens, device=device)
        with torch.no_grad(), evaluating(self.encoder):
            context = self.encode(source, source_mask).to(device)
        source_mask = None if source_mask is None else source_mask.to(device)
        return generate(self.decoder, tokens, options, mask=mask, context=context, context_mask=source_mask)
