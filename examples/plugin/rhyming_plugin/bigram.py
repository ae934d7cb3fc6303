"""Model type `bigram`: predicts the next token from the current one alone."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_model


class BigramConfig(StrictModel):
    """Keys of the section `model` with `model_type: bigram`."""

    width: Annotated[int, Field(gt=0, le=65_536)] = 16
    """Width of the token embedding. [channels]"""
    vocab_size: Annotated[int, Field(gt=0)] | None = None
    """Number of token ids; None: the data set's tokenizer's. [tokens]"""

    def sized(self, vocab_size: int | None, length: int | None) -> "BigramConfig":
        """Return a copy with the tokenizer's vocabulary size if the file gives none."""
        return self.model_copy(update={"vocab_size": self.vocab_size or vocab_size})


@register_model("bigram", config=BigramConfig)
def build(config: BigramConfig) -> Any:
    """Build the network; torch is imported here, so that checking a config stays fast."""
    from torch import nn

    if config.vocab_size is None:
        raise ValueError("a bigram needs vocab_size, or a data set with a tokenizer")
    # [B, N] token ids -> logits [B, N, vocab_size]
    return nn.Sequential(nn.Embedding(config.vocab_size, config.width), nn.Linear(config.width, config.vocab_size))
