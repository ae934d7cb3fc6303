"""Decoder of latents: a network over tokens and a latent, its language head, its loss, and generation."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.head_loss import chunk_rows
from model.latent.connectors.hugging_face_reader import HuggingFaceReader
from model.latent.connectors.performer_reader import PerformerReader
from model.transformer.generation import GenerationOptions, generate
from model.transformer.inputs import InputError, describe, has_values

Reader = HuggingFaceReader | PerformerReader


class LatentDecoder(nn.Module):
    """Decoder called as `(input_ids=ids, past=latent, labels=ids, label_ignore=pad_id)`; its first output is the loss.

    `transformer` returns logits, or hidden states that `lm_head` maps to logits.
    """

    def __init__(self, transformer: Reader, lm_head: nn.Linear | None = None) -> None:
        super().__init__()
        self.transformer, self.lm_head = transformer, lm_head

    @property
    def latent_size(self) -> int:
        """Size of the latent."""
        return self.transformer.injection.latent_size

    def forward(
        self,
        input_ids: Tensor,
        past: Tensor,
        labels: Tensor | None = None,
        label_ignore: int | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return (loss, logits), or (logits,) without labels.

        Arguments:
            input_ids: int [B, N]; past: the latent [B, latent_size].
            labels: int [B, N], usually input_ids; the loss [B] sums -log p(labels_n | before, past) over n >= 1.
            label_ignore: an id that is ignored in labels, usually the padding id.
            attention_mask: [B, N], nonzero at real tokens; by default all but label_ignore.
        Raises InputError for a latent of another size, and for ids out of range.
        """
        mask = None if attention_mask is None else attention_mask.bool()
        if mask is None and label_ignore is not None:
            mask = input_ids != label_ignore
        found = self.transformer(input_ids, past, mask)
        logits = self.head(found[0] if isinstance(found, tuple) else found)
        if labels is None:
            return (logits,)
        counted = torch.ones_like(labels, dtype=torch.bool) if label_ignore is None else labels != label_ignore
        if attention_mask is not None:
            counted = attention_mask.bool()
        return text_loss(logits, labels, counted), logits

    def nats(self, ids: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        """Return -log p in nats of texts int [B, N] after their first token, [B], given latents [B, latent_size].

        mask bool [B, N] is True at real tokens. It is the loss of `forward` without logits of all tokens: they are made in
        chunks of counted tokens, and again in the backward pass.
        """
        apart = getattr(self.transformer, "outputs", None)
        found, own_head = (self.transformer(ids, past, mask), None) if apart is None else apart(ids, past, mask)
        states: Tensor = found[0] if isinstance(found, tuple) else found
        counted, targets = mask[:, 1:].flatten(), ids[:, 1:].flatten()
        places = torch.arange(len(targets), device=ids.device)
        if has_values(ids) and ids.device.type == "cpu":  # a device would have to be waited for
            places = places[counted]
        rows, targets = states[:, :-1].flatten(0, 1).index_select(0, places), targets[places]

        def piece(some: Tensor, wanted: Tensor) -> Tensor:
            logits = self.head(some if own_head is None else own_head(some))
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return nn.functional.cross_entropy(wide, wanted, reduction="none")

        size = chunk_rows(self.transformer.vocab_size, ids.device.type)
        wanted = targets.masked_fill(~counted[places], -100)
        parts = [(rows[start : start + size], wanted[start : start + size]) for start in range(0, len(places), size)]
        if torch.is_grad_enabled() and len(parts) > 1:
            losses = [checkpoint(piece, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        else:
            losses = [piece(*part) for part in parts]
        nats = torch.cat(losses) if losses else rows.new_zeros(0, dtype=torch.float32)
        return nats.new_zeros(len(ids)).index_add(0, places // (ids.shape[1] - 1), nats)

    def head(self, states: Tensor) -> Tensor:
        """Map the output of `transformer` to logits [..., vocab_size]."""
        if self.lm_head is None:
            return states
        logits: Tensor = self.lm_head(states)
        return logits

    def generate(
        self,
        latent: Tensor,
        tokens: Tensor | int,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        num_beams: int = 1,
        eos_token: int | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        *,
        pad_token: int | None = None,
        length_penalty: float = 0.0,
        use_cache: bool = True,
        watch: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Decode latents [B, latent_size] to texts int64 [B, N + T] after prompts int [B, N] or one first token.

        Greedy by default; other arguments are those of `PerformerDecoder.generate`. `use_cache=False` runs the whole
        text again for each token, as the published code does: slow, with the same result. `watch` is called with the
        new tokens after each of them. Raises InputError.
        """
        options = GenerationOptions(
            max_new_tokens, temperature, top_k, top_p, num_beams, eos_token, pad_token, length_penalty, generator, watch
        )
        if isinstance(tokens, int):
            tokens = torch.full((len(latent), 1), tokens, device=latent.device)
        if len(tokens) != len(latent):
            raise InputError(
                f"prompts are {describe(tokens)} and latents {describe(latent)}; each latent takes one prompt"
            )
        conditioned = (_CachedDecoder if use_cache else _UncachedDecoder)(self, latent)
        return generate(conditioned, tokens, options, mask=mask)  # type: ignore[arg-type]


def text_loss(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Return the cross-entropy [B] in nats of labels int [B, N] after the first where counted bool [B, N] is True."""
    targets = labels[:, 1:].masked_fill(~counted[:, 1:], -100)
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(wide.transpose(1, 2), targets, reduction="none").sum(1)


class _CachedDecoder(nn.Module):
    """Adapter of a decoder and its latents to the interface of `model.transformer.generation`."""

    def __init__(self, decoder: LatentDecoder, latent: Tensor) -> None:
        super().__init__()
        self.decoder, self.latent = decoder, latent
        reader = decoder.transformer
        self.params = SimpleNamespace(vocab_size=reader.vocab_size, input_dim=None, max_length=reader.max_length)

    def start(self, tokens: Tensor, _: Any, mask: Tensor | None, __: Any, *, capacity: int) -> tuple[Tensor, Any]:
        output, state = self.decoder.transformer.start(tokens, self.latent, mask, capacity)
        return self.decoder.head(output), state

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        return self.decoder.head(self.decoder.transformer.step(tokens, state))


class _TextState:
    """All tokens so far; a row's new tokens follow its padding, which is masked."""

    def __init__(self, tokens: Tensor, mask: Tensor, latent: Tensor) -> None:
        self.tokens, self.mask, self.latent = tokens, mask, latent

    def select(self, rows: Tensor, *, context: bool = True) -> None:
        self.tokens, self.mask, self.latent = (
            part.index_select(0, rows) for part in (self.tokens, self.mask, self.latent)
        )


class _UncachedDecoder(_CachedDecoder):
    """The same without a cache: each step runs the whole text, with its rows aligned to the left again."""

    def start(self, tokens: Tensor, _: Any, mask: Tensor | None, __: Any, *, capacity: int) -> tuple[Tensor, Any]:
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        state = _TextState(tokens, real, self.latent)
        return self._last_output(state), state

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        state.tokens = torch.cat([state.tokens, tokens], 1)
        state.mask = torch.cat([state.mask, torch.ones_like(tokens, dtype=torch.bool)], 1)
        return self._last_output(state)

    def _last_output(self, state: _TextState) -> Tensor:
        order = (~state.mask).byte().argsort(dim=1, stable=True)
        tokens, mask = state.tokens.gather(1, order), state.mask.gather(1, order)
        states = self.decoder.transformer.states(tokens, state.latent, mask)
        last = states[torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1]
        return self.decoder.head(last)
