"""Folders of tiny pretrained models with random weights."""

from pathlib import Path
from typing import Any

ROWS = 13
"""Rows of the embedding of tiny published language models."""
SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}
KINDS = ("gpt2", "llama", "qwen3", "bert")


def write_pretrained(kind: str, folder: Path, vocab_size: int) -> None:
    """Save a model of transformers of one of the `KINDS`; gpt2 ties its head, llama and qwen3 do not."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    shared = {"vocab_size": vocab_size, "max_position_embeddings": 64, **sizes, **ids}
    if kind == "gpt2":
        config: Any = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=vocab_size, **ids)
        model: Any = GPT2LMHeadModel(config)
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **shared))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(num_key_value_heads=1, head_dim=8, **shared))
    else:
        model = BertForMaskedLM(BertConfig(**shared))
    model.save_pretrained(folder)
