"""Build encoders and decoders of Hugging Face, from a config or from pretrained weights."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch._guards import active_fake_mode

from model.hub import load_config_from_hub, load_model_from_hub
from model.latent.connectors.pooling import PretrainedPooler, make_pooler

_REMEDY = "give a folder that save_pretrained wrote, with config.json and weights in safetensors, or a name on the hub"


class ConnectorError(ValueError):
    """Error of a config or a folder that no connector can be built from; the message gives the reason and a remedy."""


def load_config(path: str) -> Any:
    """Load the config of a folder or of a name on the hub; raise HubError."""
    return load_config_from_hub(path, _REMEDY)


def encoder_of(config: Any, path: str | None = None) -> nn.Module:
    """Build the encoder of a config, with the weights of `path`; of T5 or BART, only their encoder."""
    from transformers import AutoModel, AutoModelForTextEncoding

    if config.model_type in ("t5", "mt5", "umt5"):  # their folders may hold only the encoder
        found: nn.Module = _load(AutoModelForTextEncoding, config, path)
        return found
    model: Any = _load(AutoModel, config, path)
    encoder: nn.Module = model.get_encoder() if config.is_encoder_decoder else model
    return encoder


def decoder_of(config: Any, path: str | None = None, *, has_head: bool = True) -> nn.Module:
    """Build the causal decoder of a config, with the weights of `path`; with `has_head` it returns logits."""
    from transformers import AutoModel, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM if has_head else AutoModel
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ConnectorError(
            f"{path or config.model_type} is not a decoder: transformers has no causal language model of type "
            f"{config.model_type!r}; use one such as gpt2 or llama"
        )
    model: nn.Module = _load(auto, config, path)
    return model


def _load(auto: Any, config: Any, path: str | None) -> Any:
    config = deepcopy(config)
    if path is None or active_fake_mode() is not None:
        return auto.from_config(config)
    return load_model_from_hub(auto.from_pretrained, path, _REMEDY, config=config, dtype=torch.float32)


def take_pooler(backbone: Any, pooling: Any) -> nn.Module:
    """Build a pooler for a backbone, reusing the linear layer of its pretrained pooler, which is removed from it."""
    config, own = backbone.config, getattr(backbone, "pooler", None)
    dense = own if isinstance(own, nn.Linear) else getattr(own, "dense", None)
    if own is not None:
        backbone.pooler = None
    dropout = getattr(config, "pooler_dropout", 0.0) or 0.0
    pretrained = PretrainedPooler(dense if isinstance(dense, nn.Linear) else None, dropout)
    return make_pooler(pooling, config.hidden_size, pretrained)


# Add a block to GPT-2, in front of the pretrained ones.


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
