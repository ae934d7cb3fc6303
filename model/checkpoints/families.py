"""Names of the families of published diffusion models, by which a config.json is recognised; nothing heavy is imported."""

from collections.abc import Mapping
from typing import Any

FAMILIES = ("sedd", "mdlm", "bd3lm", "udlm", "duo", "gidd")
AUTOREGRESSIVE = "ar"
"""Baseline of MDLM and BD3LM that is no diffusion model; it is read as a decoder."""
ADAPTED = ("diffugpt", "diffullama")
"""Families whose config.json is that of a causal model, GPT-2 or Llama."""
LANGUAGE_MODELS = ("llada", "llada2_moe", "dream", "sdar", "sdar_moe", "a2d-llama", "a2d-qwen2", "a2d-qwen3")
"""Values of model_type of diffusion models that transformers has no architecture for."""


def is_published(config: Mapping[str, Any]) -> bool:
    """Return True for the config.json of a published diffusion model, whether or not it is valid."""
    kind = str(config.get("model_type", "")).lower()
    is_sedd = "model_type" not in config and isinstance(config.get("graph"), Mapping) and "model" in config
    return kind in (*FAMILIES, *LANGUAGE_MODELS) or is_sedd or (kind == "dit" and "timestep_cond_dim" in config)
