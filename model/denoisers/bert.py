"""BERT as a denoiser (Devlin et al. 2019): bidirectional; `time_injection` sets where the conditioning enters."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig

from model.activation_checkpointing import CallState, Repeat
from model.attention.documents import Documents
from model.attention.rotary import rotary_angles, rotate, rotation_at
from model.bert_diffusion_model import BertDiffusionModel
from model.bert_layers import BertModulation
from model.denoisers.embeddings import ConditioningEmbedding
from model.denoisers.local import make_local
from model.denoisers.pretrained import make_full_attention_mask
from model.head_loss import HeadWeights, head_weights


class BertDenoiser(nn.Module):
    """`forward(x_t, sigma)`: a `BertDiffusionModel` over the process's tokens, and a linear head.

    Raises ValueError if the section's `length` is larger than the number of positions.
    """

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        if config.get("length") and config.length > config.max_length:
            raise ValueError(
                f"sequences have {config.length} tokens, and the backbone bert has {config.max_length} positions "
                f"(max_length); set backbone.max_length: {config.length}"
            )
        width = config.hidden_size
        self.model = BertDiffusionModel(_bert_config(config, vocab_size), add_pooling_layer=False)
        self.places = Places()
        if config.position == "rotary":
            _make_rotary(self.model, self.places)
        _initialise(self.model)
        self.local = make_local(config, width)
        self.told = ConditioningEmbedding(config, width, constant=config.time_injection == "adaln")
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if config.tie_embeddings:
            self.head.weight = self.model.bert.embeddings.word_embeddings.weight

    def forward(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L] is True at real tokens.

        documents int [B, L] numbers the documents of packed rows. Raises ValueError for more tokens than positions.
        """
        out: Tensor = self.head(self.hidden(x_t, sigma, mask=mask, cond=cond, documents=documents))
        return out

    @property
    def output_head(self) -> HeadWeights | None:
        """Weights of the head over what `hidden` returns; None if it is adapted."""
        return head_weights(self.head)

    def hidden(
        self,
        x_t: Tensor,
        sigma: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the states [B, L, hidden_size] that the head maps to logits; arguments and errors as in `forward`."""
        most = self.model.config.max_position_embeddings
        if x_t.shape[1] > most:
            raise ValueError(f"got {x_t.shape[1]} tokens, and the backbone bert has {most} positions (max_length)")
        ids = x_t if mask is None else x_t.masked_fill(~mask, 0)
        keys = None if mask is None else mask | ~mask.any(1, keepdim=True)  # never an empty row
        cond_emb, positions = self.told(x_t, sigma, cond).to(self.head.weight.dtype), None
        if documents is not None:
            apart = Documents(documents)
            positions = apart.positions
            keys = make_full_attention_mask(keys, cond_emb.expand(*x_t.shape, -1), apart.same)
        elif keys is not None and keys.device.type != "cpu":
            keys = make_full_attention_mask(keys, cond_emb.expand(*x_t.shape, -1))  # BERT reads [B, L] on the host
        given: dict[str, Tensor] = {"input_ids": ids}
        if self.local is not None:
            words = self.model.bert.embeddings.word_embeddings(ids)
            given = {"inputs_embeds": self.local(words, mask, documents)}
        with self.places.at(positions):  # read by the layers of this call
            hidden: Tensor = self.model(
                **given, attention_mask=keys, position_ids=positions, timestep_embeds=cond_emb
            ).last_hidden_state
        return hidden


class Places:
    """Positions int64 [B, L] of the tokens of the current call, which BERT does not pass to its layers; None: 0..L-1."""

    positions: Tensor | None = None

    @contextmanager
    def at(self, positions: Tensor | None) -> Iterator[None]:
        """Use positions int64 [B, L] inside the block; None: 0..L-1."""
        before, self.positions = self.positions, positions
        try:
            yield
        finally:
            self.positions = before


class RotaryLinear(nn.Linear, CallState):
    """Linear layer of queries or keys with rotary position embeddings (Su et al. 2021)."""

    def __init__(self, width: int, num_heads: int, places: Places) -> None:
        super().__init__(width, width)
        self.num_heads, self.places = num_heads, places

    def capture(self) -> Repeat:
        """Capture the positions of the current call."""
        return partial(self.places.at, self.places.positions)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, L, width] to the same shape."""
        heads = super().forward(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
        positions, width = self.places.positions, heads.shape[-1]
        if positions is None:
            angles = rotary_angles(x.shape[1], width, x.device)
        else:
            angles = rotation_at(positions[:, None], width)
        rotated = rotate(heads, angles)
        return rotated.transpose(1, 2).flatten(-2)


def _make_rotary(model: BertDiffusionModel, places: Places) -> None:
    """Replace query and key layers by rotary ones, and set the learned positions to zero; they remain trainable."""
    config = model.config
    for layer in model.bert.encoder.layer:
        for name in ("query", "key"):
            setattr(layer.attention.self, name, RotaryLinear(config.hidden_size, config.num_attention_heads, places))
    nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)


@torch.no_grad()
def _initialise(model: BertDiffusionModel) -> None:
    """Initialise weights with unit gain, and adaLN's gates closed, as in DiT.

    BERT's standard deviation of 0.02 suits a width of 768; with it, narrower networks only learn unigrams for long.
    """
    nn.init.normal_(model.bert.embeddings.word_embeddings.weight, std=model.config.hidden_size**-0.5)
    for module in model.bert.encoder.modules():
        if isinstance(module, BertModulation):
            for gate in (2, 5):
                module.bias.chunk(6)[gate].fill_(-1.0)  # a half is multiplied by 1 + gate
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)


def _bert_config(config: Any, vocab_size: int) -> BertConfig:
    """Convert the section to a `BertConfig` with one token type and no padding id, so that token 0 is learnt."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size or 4 * config.hidden_size,
        max_position_embeddings=config.max_length,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        type_vocab_size=1,
        pad_token_id=None,
        time_injection=config.time_injection,
    )
