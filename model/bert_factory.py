"""A BERT for diffusion over molecules, of the size that PolyDiff calls medium, with its tokenizer."""

from typing import TYPE_CHECKING

from transformers import BertConfig

from model.bert_diffusion_model import BertDiffusionModel
from model.hub import load_from_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOLECULES_TOKENIZER = "seyonec/ChemBERTa-zinc-base-v1"

__all__ = ["MOLECULES_TOKENIZER", "BertDiffusionModel", "build_medium_bert_diffusion_model"]


def build_medium_bert_diffusion_model(
    tokenizer: "PreTrainedTokenizerBase | None" = None, diffusion_steps: int = 100
) -> "tuple[BertDiffusionModel, PreTrainedTokenizerBase]":
    """A `BertDiffusionModel` for the tokens of a tokenizer, and that tokenizer.

    It is 512 wide, with 6 layers of 8 heads, feed-forward layers of 2048, and 512 positions. `tokenizer` is one of
    Hugging Face or of ours; None: that of ChemBERTa, from the hub or the cache of an earlier download.
    `diffusion_steps` is kept in `model.config`, for `model.embed_timesteps`.
    Raises ValueError for fewer than one diffusion step, HubError (an OSError) where the tokenizer cannot be had.
    """
    if diffusion_steps < 1:
        raise ValueError(f"diffusion_steps is {diffusion_steps}; one step or more fits")
    if tokenizer is None:
        from transformers import AutoTokenizer

        remedy = "pass a tokenizer: build_medium_bert_diffusion_model(tokenizer=...)"
        tokenizer = load_from_hub(AutoTokenizer.from_pretrained, MOLECULES_TOKENIZER, "tokenizer", remedy)
    pad = getattr(tokenizer, "pad_token_id", None)
    config = BertConfig(
        vocab_size=len(tokenizer) if hasattr(tokenizer, "__len__") else tokenizer.vocab_size,  # with added tokens
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=512,
        pad_token_id=pad,
        diffusion_steps=diffusion_steps,
    )
    return BertDiffusionModel(config), tokenizer
