"""Names of the linear layers that LoRA can adapt, from a checked config alone; no torch is imported.

`tests/experiment/test_linear_layers.py` compares them with the layers of built models.
"""

from typing import Any

from model.model_types import ModelConfig
from model.types import PerformerParams
from model_factory.experiment.check_context import DISCRETE, LATENT, SPEECH_TASKS
from model_factory.yaml_config.from_registry import name_of

_STACK = frozenset(("to_q", "to_k", "to_v", "to_out", "to_inner"))
_CORES = {"softmax", "linear", "causal_linear"}
"""Attention cores that have no linear layers."""
_TIME = frozenset(("0", "2"))
"""Layers of the embedding of a noise level or of properties, which is a sequence without names."""
_ROUTES = {
    "embedding": "linear_emb",
    "memory": "linear",
    "cross_attention": "linear_context",
    "soft_prompt": "linear_prompt",
}
"""Layer that each route of a latent into a decoder adds."""
_DENOISERS = {
    "mlp": {"first", "second", "linear", "scale", "last"},
    "linear": {"first", "second", "0", "2", "4"},
    "residual": {"first", "second", "1", "last"},
    "transformer": {"first", "second", "to_tokens", "tell", "to_latent", "linear1", "linear2", "out_proj"},
    "performer": {"first", "second", "to_tokens", "tell", "to_latent", *_STACK},
}
"""Layers of the denoisers of latents."""


def linear_layers(model: ModelConfig, task: str | None) -> frozenset[str] | None:
    """Return the last names of the linear layers of a model with its task's parts; None if only the weights tell."""
    if model.model_type == DISCRETE:
        return _of_backbone(model.config)
    if model.model_type == LATENT:
        stages = layers_of_stages(model)
        return None if stages is None else stages["autoencoder"] | stages["diffusion"]
    stacks = [value for _, value in model.config if isinstance(value, PerformerParams)]
    if not stacks or not all(map(_is_built_in, stacks)):
        return None
    found = set(_STACK)
    if any(not stack.tie_embeddings for stack in stacks):
        found.add("head")
    if task == "sequence_classification":
        found.add("classifier")
    if task in SPEECH_TASKS:
        found |= {"project", "head"}
    if any(stack.input_dim is not None for stack in stacks):
        found.add("projection")
    return frozenset(found)


def _of_backbone(section: Any) -> frozenset[str] | None:
    """Return the layers of a diffusion model's backbone."""
    backbone, condition = section.backbone, section.condition
    source = _of_source(backbone)
    if source is None:
        return None
    told = _TIME if section.is_time_conditioned or (condition and condition.size) else frozenset()
    if backbone.type == "ddit":
        return frozenset(("to_qkv", "to_out", "linear", "head")) | _TIME | source
    if backbone.type == "bert":
        plain = ("key", "query") if backbone.position == "absolute" else ()  # rotary layers compute something else
        modulated = _TIME if backbone.time_injection == "adaln" else told  # built even if nothing is conditioned on
        return frozenset(("dense", "value", "head", *plain)) | modulated
    if backbone.type == "performer" and isinstance(backbone, PerformerParams) and _is_built_in(backbone):
        return _STACK | told | (frozenset() if backbone.tie_embeddings else {"head"}) | source
    return None


def _of_source(backbone: Any) -> frozenset[str] | None:
    """Return the layers by which a backbone reads a source; None if only the weights of its encoder tell."""
    encoder = getattr(backbone, "encoder", None)
    if encoder is None:
        return frozenset()
    if not isinstance(encoder, PerformerParams) or not _is_built_in(encoder):
        return None
    return (
        _STACK
        | ({"to_kv"} if backbone.type == "ddit" else frozenset())
        | (frozenset() if encoder.d_model == getattr(backbone, "d_model", None) else {"project"})
    )


def layers_of_stages(model: ModelConfig) -> dict[str, frozenset[str]] | None:
    """Return the layers that the stages `autoencoder` and `diffusion` train, of a latent model of two Performers."""
    section: Any = model.config
    parts = (section.encoder, section.decoder)
    if not all(isinstance(part, PerformerParams) and _is_built_in(part) for part in parts):
        return None
    denoiser = _DENOISERS.get(section.denoiser.type)
    is_known = name_of(section.encoder.pooling) in ("first", "mean", "context")
    if denoiser is None or not is_known or not set(map(name_of, section.decoder.routes)) <= _ROUTES.keys():
        return None
    routes = {_ROUTES[name_of(route)] for route in section.decoder.routes}
    head = set() if section.decoder.tie_embeddings else {"head"}
    return {"autoencoder": _STACK | routes | {"linear", "dense"} | head, "diffusion": frozenset(denoiser)}


def _is_built_in(stack: PerformerParams) -> bool:
    return set(stack.attention_types) <= _CORES
