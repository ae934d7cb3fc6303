"""Add a block to GPT-2, in front of the pretrained ones."""

from typing import Any

from torch import nn


def add_block(gpt2: Any, feed_forward: int | None = None) -> nn.Module:
    """Insert a new first block into a `GPT2Model`, freeze all others, and return it; `feed_forward` is its inner width.

    The layer indices of the others in the KV cache increase by one.
    """
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    gpt2.requires_grad_(False)
    config = type(gpt2.config).from_dict(gpt2.config.to_dict())
    config.n_inner = feed_forward or config.n_inner
    config._attn_implementation = gpt2.config._attn_implementation
    config.n_layer += 1
    block: nn.Module = GPT2Block(config, layer_idx=0)
    block.apply(gpt2._init_weights)
    reference = next(gpt2.parameters())
    block.to(reference.device, reference.dtype)
    gpt2.h.insert(0, block)
    for index, other in enumerate(gpt2.h):
        other.attn.layer_idx = index
        if hasattr(other, "crossattention"):
            other.crossattention.layer_idx = index
    gpt2.config.n_layer += 1
    return block
