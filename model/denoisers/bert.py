"""BERT as a denoiser (Devlin et al. 2019): bidirectional, learned positions, told the time as `time_injection` says."""

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig

from diffusion.errors import LengthError
from model.bert_diffusion_model import BertDiffusionModel
from model.denoisers.embeddings import Told


class BertDenoiser(nn.Module):
    """`forward(x_t, sigma)`: a `BertDiffusionModel` over the process's tokens, and BERT's masked-language-model head.

    Raises ValueError where sequences of the section's `length` have more tokens than there are positions.
    """

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        if config.get("length") and config.length > config.max_length:
            raise ValueError(
                f"sequences have {config.length} tokens, and the backbone bert has max_length {config.max_length} "
                f"positions; set backbone.max_length: {config.length}"
            )
        width = config.hidden_size
        self.model = BertDiffusionModel(_bert_config(config, vocab_size), add_pooling_layer=False)
        nn.init.normal_(self.model.bert.embeddings.word_embeddings.weight, std=width**-0.5)
        self.told = Told(config, width, constant=config.time_injection == "adaln")
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if config.tie_embeddings:
            self.head.weight = self.model.bert.embeddings.word_embeddings.weight

    def forward(
        self, x_t: Tensor, sigma: Tensor | None = None, *, mask: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, dim] of x_t int [B, L] at sigma [B] or [B, L]; mask bool [B, L] is True at real tokens.

        Raises LengthError for more tokens than positions.
        """
        positions = self.model.config.max_position_embeddings
        if x_t.shape[1] > positions:
            raise LengthError(f"got {x_t.shape[1]} tokens; the backbone bert has max_length {positions} positions")
        ids = x_t if mask is None else x_t.masked_fill(~mask, 0)
        keys = None if mask is None else mask | ~mask.any(1, keepdim=True)  # never an empty row
        told = self.told(x_t, sigma, cond)
        hidden = self.model(ids, attention_mask=keys, timestep_embeds=told).last_hidden_state
        out: Tensor = self.head(self.transform(hidden))
        return out


def _bert_config(config: Any, vocab_size: int) -> BertConfig:
    """The section in BERT's own terms. No token is padding, so that token 0 learns; a sequence is of one type."""
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
