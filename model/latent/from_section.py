"""Convert a part's section to a config of transformers, and build a decoder of it."""

from typing import Any

from torch import nn

from model.latent.checks import POSITIONS_AFTER_PADDING
from model.latent.connectors.hugging_face import ConnectorError, decoder_of, load_config
from model.latent.part_types import HuggingFacePart

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout_rate",
    "attention_dropout",
    "dropout",
)
_FEED_FORWARD = ("intermediate_size", "n_inner", "d_ff", "ffn_dim")


def make_config(section: HuggingFacePart, architecture: str | None) -> Any:
    """Load the config of a section's `path`, or make one of its sizes; raise ConnectorError and HubError."""
    if section.path is not None:
        return load_config(section.path)
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.for_model(architecture or "")
    except ValueError as error:
        raise ConnectorError(
            f"transformers has no architecture {architecture!r}; use one such as bert, roberta, gpt2 or llama"
        ) from error
    if section.vocab_size is None:
        raise ConnectorError(
            "the model needs vocab_size: add a data set with a tokenizer, or set it in encoder and decoder"
        )
    assert section.hidden_size is not None
    inner = section.intermediate_size or 4 * section.hidden_size
    dropout = 0.1 if section.dropout is None else section.dropout
    values: dict[str, Any] = {
        "vocab_size": section.vocab_size,
        "hidden_size": section.hidden_size,
        "num_hidden_layers": section.num_layers,
        "num_attention_heads": section.num_heads,
        "num_key_value_heads": section.num_heads,
        "max_position_embeddings": (section.max_length or 512) + _offset(architecture),
        "d_kv": section.hidden_size // (section.num_heads or 1),
        "head_dim": section.hidden_size // (section.num_heads or 1),
        "embedding_size": section.hidden_size,
        **dict.fromkeys(_FEED_FORWARD, inner),
        **dict.fromkeys(_DROPOUTS, dropout),
        "bos_token_id": None,
        "eos_token_id": None,
    }
    known = {key: value for key, value in values.items() if hasattr(config, key)}
    for key in [key for key in vars(config) if key.endswith("_token_id") and key not in values]:
        if isinstance(getattr(config, key), int) and getattr(config, key) >= section.vocab_size:
            known[key] = 0 if key == "pad_token_id" else None
    try:
        return type(config)(**known)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise ConnectorError(f"architecture {architecture!r} cannot be built with these sizes: {error}") from error


def make_decoder(config: Any, path: str | None, *, cross_attention: bool) -> nn.Module:
    """Build a causal decoder, with cross-attention if set; raise ConnectorError if the architecture has none."""
    if getattr(config, "is_decoder", None) is False and not config.is_encoder_decoder:
        config.is_decoder = True  # BERT and similar models can be both
    if cross_attention:
        if not hasattr(config, "add_cross_attention"):
            raise ConnectorError(
                f"a decoder of type {config.model_type!r} has no cross-attention; use gpt2, or another route"
            )
        config.add_cross_attention = True
    return decoder_of(config, path)


def _offset(architecture: str | None) -> int:
    """Return the number of unused positions: RoBERTa's begin after its padding id, 1."""
    return 2 if architecture in POSITIONS_AFTER_PADDING else 0
