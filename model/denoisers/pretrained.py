"""Load language models of Hugging Face for `model.denoisers.hugging_face`, and make their attention bidirectional."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode
from transformers import AutoConfig
from transformers.initialization import no_init_weights

from model.evaluation_mode import evaluation_mode
from model.head_loss import head_weights
from model.hub import HubError, load_config_from_hub, load_from_hub, load_model_from_hub, weights_are_replaced

_REMEDY = "give the path of a folder that save_pretrained wrote, with config.json and weights in safetensors"

_SUPPORTED = "use a model with softmax attention in every layer, such as gpt2, llama, qwen2, bert or roberta"


class PretrainedError(ValueError):
    """Error of a pretrained model that cannot be a denoiser; the message gives the reason and a remedy."""


def load_language_model(
    path: str | None,
    adapt: str | None,
    *,
    architecture: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, str]:
    """Load the model of a folder or of a name on the hub in `dtype`; return it and its kind, masked or causal.

    Without storage (in a summary), or for an `architecture`, it is built from its config alone; its weights are not
    initialised where those of a run replace them. Raises HubError and PretrainedError.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    config = load_config_from_hub(path, _REMEDY) if path is not None else _make_config(architecture or {})
    kind = adapt or _infer_kind(config)
    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM
    if type(config) not in auto._model_mapping:
        raise PretrainedError(
            f"backbone hugging_face: {path or 'its architecture'} is of type {config.model_type!r}, and transformers has no {kind} language "
            "model of it; use an encoder such as bert, roberta or modernbert, or a decoder such as gpt2 or llama"
        )
    if path is None or active_fake_mode() is not None:
        with no_init_weights() if path is None and weights_are_replaced() else nullcontext():
            model = auto.from_config(config, dtype=dtype)
        model.tie_weights()  # which is left out with the initialisation
        return model, kind
    return load_model_from_hub(auto.from_pretrained, path, _REMEDY, config=config, dtype=dtype), kind


def _make_config(architecture: dict[str, Any]) -> Any:
    """Return the transformers config of a mapping with model_type; raise PretrainedError for one that it does not take."""
    values = dict(architecture)
    kind = values.pop("model_type")
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as error:  # transformers raises many types
        text = " ".join(str(error).split())[:200]
        raise PretrainedError(f"backbone hugging_face: architecture {kind!r} is not valid: {text}") from error


def make_bidirectional(model: Any) -> None:
    """Make every attention bidirectional and disable the KV cache; masks are passed in each call."""
    model.config.is_causal = False
    model.config.use_cache = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def make_full_attention_mask(mask: Tensor | None, like: Tensor, same: Tensor | None = None) -> Tensor:
    """Return the additive attention mask [B or 1, 1, L, L]: 0 at visible tokens, the lowest finite number at others.

    mask is bool [B, L], True at real tokens; None if all tokens of like [B, L, width] are real. same is bool [B, L, L],
    True where two tokens are of one document; None if all are.
    """
    length = like.shape[1]
    if mask is None and same is None:
        return like.new_zeros(1, 1, length, length)
    allowed = torch.ones(1, 1, 1, dtype=torch.bool, device=like.device) if mask is None else mask[:, None]
    allowed = (allowed if same is None else allowed & same).expand(-1, length, -1)
    hidden = torch.zeros_like(allowed, dtype=like.dtype).masked_fill(~allowed, torch.finfo(like.dtype).min)
    return hidden[:, None]


@torch.no_grad()
def find_leak(network: Any, num_tokens: int) -> str | None:
    """Return why a network cannot isolate documents, None if it gives a document in a packed row its output alone."""
    config = network.model.config
    if not network.is_adapted and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "its local attention makes a separate mask"
    device = next(network.parameters()).device
    ids = torch.arange(7, device=device)[None] % num_tokens
    documents, level = torch.tensor([[1, 1, 1, 2, 2, 2, 2]], device=device), torch.ones(1, device=device)
    try:
        with evaluation_mode(network):
            packed = network.logits(ids, level, documents=documents)
            alone = torch.cat([network.logits(ids[:, :3], level), network.logits(ids[:, 3:], level)], 1)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        return " ".join(str(error).split())[:200]
    close = torch.allclose(packed, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))
    return None if close else "a document in a packed row gets another output than alone"


@torch.no_grad()
def check_is_bidirectional(network: nn.Module, num_tokens: int, name: str) -> None:
    """Raise PretrainedError if changing the last of four tokens leaves the first output equal: attention is causal."""
    if active_fake_mode() is not None:
        return
    device = next(network.parameters()).device
    ids = torch.tensor([[0, 1, 2, 3]], device=device) % num_tokens
    changed = torch.tensor([[0, 1, 2, 4]], device=device) % num_tokens
    try:
        with evaluation_mode(network):
            first, second = (network(tokens)[:, 0] for tokens in (ids, changed))
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(
            f"{name} cannot be called as a denoiser, with embeddings and a full attention mask: {_SUPPORTED} ({reason})"
        ) from error
    if torch.equal(first, second):
        raise PretrainedError(
            f"{name} stays causal: a later token changes no output before it, so it cannot denoise: {_SUPPORTED}"
        )


@contextmanager
def replaced_head(model: Any, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Call `forward` on states [..., width] in place of a language model's head, which computes nothing."""
    head = model.get_output_embeddings()
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def without_head(model: Any) -> AbstractContextManager[None]:
    """Let a language model return the states [B, L, width] that its head would map to logits as its logits."""
    return replaced_head(model, lambda states: states)


@torch.no_grad()
def ends_in_head(model: Any) -> bool:
    """Return True if a language model's logits are what its head returns, neither capped nor scaled.

    The head is a linear layer whose output is replaced by known numbers, so that weights of any value do.
    """
    if head_weights(model.get_output_embeddings()) is None:
        return False
    weight = model.get_input_embeddings().weight
    wanted = torch.linspace(-40, 40, model.config.vocab_size, device=weight.device).to(weight.dtype).expand(1, 2, -1)
    with evaluation_mode(model), replaced_head(model, lambda states: wanted):
        found = model(inputs_embeds=weight.new_zeros(1, 2, weight.shape[1])).logits
    return torch.equal(found.to(wanted.dtype), wanted)


def find_mask_token(path: str) -> int | None:
    """Return the mask token's id in the model's tokenizer; None without a tokenizer or a mask token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = load_from_hub(AutoTokenizer.from_pretrained, path, "tokenizer", _REMEDY)
    except HubError:
        return None
    found: int | None = getattr(tokenizer, "mask_token_id", None)
    return found


def _infer_kind(config: Any) -> str:
    """Return masked or causal, from the class that was saved, else from the classes of transformers for the type."""
    from transformers import AutoModelForMaskedLM

    for name in getattr(config, "architectures", None) or ():
        if "MaskedLM" in name or "PreTraining" in name:
            return "masked"
        if "CausalLM" in name or "LMHead" in name:
            return "causal"
    return "masked" if type(config) in AutoModelForMaskedLM._model_mapping else "causal"
