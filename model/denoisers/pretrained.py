"""Loads language models of Hugging Face for `model.denoisers.hugging_face`, and makes them see both ways."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from model.hub import HubError, load_from_hub

_REMEDY = "give the path of a folder that save_pretrained wrote, with config.json and weights in safetensors"

_FITTING = "a model with softmax attention in every layer fits, such as gpt2, llama, qwen2, bert or roberta"


class PretrainedError(ValueError):
    """A pretrained model that cannot serve as a denoiser; the message says why, and what would."""


def load_language_model(path: str, adapt: str | None) -> tuple[Any, str]:
    """The model of a folder or of a name on the hub, in float32, and how it is adapted: masked or causal.

    Without storage (a summary), it is built from its config alone. Raises HubError and PretrainedError.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    config = load_from_hub(AutoConfig.from_pretrained, path, "pretrained model", _REMEDY)
    kind = adapt or _kind(config)
    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM
    if type(config) not in auto._model_mapping:
        raise PretrainedError(
            f"backbone hugging_face: transformers has no {kind} language model of type {config.model_type!r}, which is "
            f"that of {path}; an encoder such as bert, roberta or modernbert, or a decoder such as gpt2 or llama fits"
        )
    if active_fake_mode() is not None:
        return auto.from_config(config), kind
    options = {"config": config, "dtype": torch.float32, "use_safetensors": True}
    return load_from_hub(auto.from_pretrained, path, "pretrained model", _REMEDY, **options), kind


def see_both_ways(model: Any) -> None:
    """Tell every attention that it is not causal, and that nothing is cached; masks are given in each call."""
    model.config.is_causal = False
    model.config.use_cache = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def full_attention(mask: Tensor | None, like: Tensor) -> Tensor:
    """What is added to attention's scores: 0 at keys that are seen, else the least number; [B or 1, 1, L, L].

    mask is bool [B, L], True at real tokens; None where all of like [B, L, width] are.
    """
    length = like.shape[1]
    if mask is None:
        return like.new_zeros(1, 1, length, length)
    hidden = torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, torch.finfo(like.dtype).min)
    return hidden[:, None, None].expand(-1, 1, length, -1)


@torch.no_grad()
def check_sees_later_tokens(network: nn.Module, num_tokens: int, name: str) -> None:
    """Raise PretrainedError where the last token of four changes nothing at the first: attention is still causal."""
    if active_fake_mode() is not None:
        return
    training, device = network.training, next(network.parameters()).device
    ids = torch.tensor([[0, 1, 2, 3]], device=device) % num_tokens
    changed = torch.tensor([[0, 1, 2, 4]], device=device) % num_tokens
    try:
        first, second = (network.eval()(tokens)[:, 0] for tokens in (ids, changed))
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        told = " ".join(str(error).split())[:200]
        raise PretrainedError(
            f"{name} cannot be called as a denoiser, with embeddings and a mask of full attention: {_FITTING} ({told})"
        ) from error
    finally:
        network.train(training)
    if torch.equal(first, second):
        raise PretrainedError(
            f"{name} stays causal: a later token changes nothing before it, so it cannot denoise: {_FITTING}"
        )


def mask_token_of(path: str) -> int | None:
    """The id of the mask of the model's own tokenizer; None without a tokenizer, or where it has no mask."""
    from transformers import AutoTokenizer

    try:
        tokenizer = load_from_hub(AutoTokenizer.from_pretrained, path, "tokenizer", _REMEDY)
    except HubError:
        return None
    found: int | None = getattr(tokenizer, "mask_token_id", None)
    return found


def _kind(config: Any) -> str:
    """masked or causal, by the class that was saved, else by what transformers has for the type."""
    from transformers import AutoModelForMaskedLM

    for name in getattr(config, "architectures", None) or ():
        if "MaskedLM" in name or "PreTraining" in name:
            return "masked"
        if "CausalLM" in name or "LMHead" in name:
            return "causal"
    return "masked" if type(config) in AutoModelForMaskedLM._model_mapping else "causal"
