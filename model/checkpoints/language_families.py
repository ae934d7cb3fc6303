"""Families of published language models that denoise: the architecture in transformers of each, and its names there.

LLaDA is a Llama, Dream a Qwen2, SDAR a Qwen3 or a Qwen3Moe, LLaDA2 a Glm4Moe, DiffuGPT a GPT-2, DiffuLLaMA a Llama, and dLLM's a2d models
keep the names of theirs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.checkpoints.errors import PublishedError
from model.checkpoints.network import Change, Part

Names = Iterable[str]
_NO_MASK = (0, 0)
_ADAPTED = {"gpt2": "diffugpt", "llama": "diffullama"}
"""Families whose config.json is that of the causal model that was adapted."""
_LLADA_LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_LLADA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_LLADA_FIXED: dict[str, Any] = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
}
"""Settings of LLaDA that the map needs; a config without a key has this value."""
_SHARED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "rms_norm_eps", "max_position_embeddings"),
)


_GPT2_FIXED: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
_LLADA2_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "score_function": "sigmoid",
    "use_qk_norm": True,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_sliding_window": False,
    "moe_router_enable_expert_bias": True,
}
_LLADA2_SIZES = {
    "head_dim": "head_dim",
    "moe_intermediate_size": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "n_group": "n_group",
    "topk_group": "topk_group",
    "first_k_dense_replace": "first_k_dense_replace",
    "routed_scaling_factor": "routed_scaling_factor",
}
"""Keys of LLaDA2, and of Glm4Moe."""
_LLADA2_NAMES = {
    ".word_embeddings.": ".embed_tokens.",
    ".attention.dense.": ".self_attn.o_proj.",
    ".attention.query_layernorm.": ".self_attn.q_norm.",
    ".attention.key_layernorm.": ".self_attn.k_norm.",
    ".gate.expert_bias": ".gate.e_score_correction_bias",
}
_LLADA2_BLOCK = 32
_EXPERTS = ".mlp.experts."
CAUSAL_MASKS = (".attn.bias", ".attn.masked_bias")
"""Ends of the names of GPT-2's buffers, which are not weights."""
_DENOISER = "denoise_model."
"""Prefix of the tensors of DiffuGPT and DiffuLLaMA."""


class Reader(NamedTuple):
    """Family: its architecture in transformers, the mask of the published model, its shift, and its tensors' names."""

    architecture: Callable[[Mapping[str, Any], str], dict[str, Any]]
    mask: tuple[int, int]
    """Vocabulary size of the published model, and its mask."""
    shift: bool
    parts: Callable[[Names, Mapping[str, Any]], dict[str, Part]]
    """Our tensors from theirs, given their names and the architecture."""
    in_blocks: bool = False
    block_size: int | None = None
    """Size of blocks where the config names none."""


def language_family(config: Mapping[str, Any], given: str | None = None, names: Names = ()) -> str | None:
    """Return the family of a config.json, None for a model that is not read.

    The config of DiffuGPT and DiffuLLaMA is that of a causal model: the user names the family, or the names of the tensors
    tell it.
    """
    kind = str(config.get("model_type", "")).lower()
    adapted = _ADAPTED.get(kind)
    if adapted is None:
        return kind if kind in READERS else None
    return adapted if given == adapted or any(name.startswith(_DENOISER) for name in names) else None


def is_adapted(config: Mapping[str, Any]) -> bool:
    """Return True for a config.json that a family shares with the causal model that it was adapted from."""
    return str(config.get("model_type", "")).lower() in _ADAPTED


def _llada(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return LLaDA's architecture, a Llama."""
    _check_fixed(config, _LLADA_FIXED, where)
    heads = _number(config, "n_heads", where)
    rows = config.get("embedding_size") or _number(config, "vocab_size", where)
    return {
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": _number(config, "d_model", where),
        "intermediate_size": _number(config, "mlp_hidden_size", where),
        "num_hidden_layers": _number(config, "n_layers", where),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or heads,
        "max_position_embeddings": _number(config, "max_sequence_length", where),
        "rms_norm_eps": _number(config, "rms_norm_eps", where),
        "rope_parameters": _rope(config, where),
        "tie_word_embeddings": bool(config.get("weight_tying", False)),
    }


def _llada_name(name: str) -> str:
    """Return the name in Llama of a tensor of LLaDA; `ff_out` is the head at the top and a projection in a layer."""
    parts = name.removeprefix("model.transformer.").split(".")
    if parts[0] == "blocks" and len(parts) > 2 and parts[2] in _LLADA_LAYER:
        return ".".join(["model.layers", parts[1], _LLADA_LAYER[parts[2]], *parts[3:]])
    return ".".join([_LLADA_TOP.get(parts[0], name), *parts[1:]]) if parts[0] in _LLADA_TOP else name


def _qwen(kind: str, *more: str) -> Callable[[Mapping[str, Any], str], dict[str, Any]]:
    """Return the reader of an architecture whose config has Qwen's keys, and `more` of them."""

    def read(config: Mapping[str, Any], where: str) -> dict[str, Any]:
        if config.get("use_sliding_window") is True or config.get("hidden_act", "silu") != "silu":
            raise PublishedError(f"{where}: sliding windows and activations other than silu are not read")
        if config.get("attention_bias") is True:
            raise PublishedError(f"{where}: attention_bias is true, and false is read")
        return {
            "model_type": kind,
            **{key: _number(config, key, where) for key in (*_SHARED, *more)},
            "rope_parameters": _rope(config, where),
            "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        }

    return read


def _rope(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, Mapping) else scaling
    if kind != "default":
        raise PublishedError(f"{where}: rope_scaling is {kind!r}, and only default positions are read")
    base = scaling.get("rope_theta") or _number(config, "rope_theta", where)
    return {"rope_type": "default", "rope_theta": float(base)}


def _number(config: Mapping[str, Any], key: str, where: str) -> Any:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PublishedError(f"{where}: {key} is {value!r}; expected a number")
    return value


def _llada2(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return LLaDA2's architecture, a Glm4Moe."""
    _check_fixed(config, _LLADA2_FIXED, where)
    head: int = _number(config, "head_dim", where)
    share = config.get("partial_rotary_factor") or _number(config, "rotary_dim", where) / head
    return {
        "model_type": "glm4_moe",
        **{key: _number(config, key, where) for key in _SHARED},
        **{ours: _number(config, theirs, where) for theirs, ours in _LLADA2_SIZES.items()},
        "norm_topk_prob": bool(config.get("norm_topk_prob", True)),
        "use_qk_norm": True,
        "attention_bias": False,
        "num_mtp_layers": 0,
        "rope_parameters": {**_rope(config, where), "partial_rotary_factor": float(share)},
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }


def _llada2_parts(names: Names, architecture: Mapping[str, Any]) -> dict[str, Part]:
    """Map LLaDA2's tensors: queries, keys and values are rows of one, and the experts of a layer are stacked here."""
    head: int = architecture["head_dim"]
    ends = [head * int(architecture[f"num_{kind}_heads"]) for kind in ("attention", "key_value", "key_value")]
    found: dict[str, Part] = {}
    experts: set[str] = set()
    for name in names:
        before, fused, after = name.partition(".attention.query_key_value.")
        if fused:
            for index, kind in enumerate("qkv"):
                found[f"{before}.self_attn.{kind}_proj.{after}"] = Part(
                    (name,), _take_rows(sum(ends[:index]), ends[index])
                )
        elif _EXPERTS in name:
            experts.add(name.partition(_EXPERTS)[0])
        else:
            for theirs, ours in _LLADA2_NAMES.items():
                before, renamed, after = name.partition(theirs)
                if renamed:
                    found[f"{before}{ours}{after}"] = Part((name,))
                    break
            else:
                found[name] = Part((name,))
    return found | _stack_experts(experts, architecture["n_routed_experts"])


def _stack_experts(layers: Names, count: int) -> dict[str, Part]:
    """Map the experts of layers, which are listed one by one, to one tensor of gates and values and one of outputs."""
    found: dict[str, Part] = {}
    for layer in layers:
        each = [f"{layer}{_EXPERTS}{index}" for index in range(count)]
        both = tuple(f"{expert}.{kind}_proj.weight" for expert in each for kind in ("gate", "up"))
        found[f"{layer}{_EXPERTS}gate_up_proj"] = Part(both, _stack_pairs)
        found[f"{layer}{_EXPERTS}down_proj"] = Part(
            tuple(f"{expert}.down_proj.weight" for expert in each), lambda *each: torch.stack(each)
        )
    return found


def _qwen3_moe(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return SDAR-MoE's architecture, a Qwen3Moe."""
    read = _qwen("qwen3_moe", "head_dim", "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    dense = config.get("mlp_only_layers") or []
    if not isinstance(config.get("norm_topk_prob"), bool):
        raise PublishedError(f"{where}: norm_topk_prob is {config.get('norm_topk_prob')!r}; expected true or false")
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise PublishedError(f"{where}: mlp_only_layers is {dense!r}; expected a list of layers")
    return {
        **read(config, where),
        "norm_topk_prob": config["norm_topk_prob"],
        "decoder_sparse_step": _number({"decoder_sparse_step": 1, **config}, "decoder_sparse_step", where),
        "mlp_only_layers": dense,
    }


def _qwen3_moe_parts(names: Names, architecture: Mapping[str, Any]) -> dict[str, Part]:
    """Map SDAR-MoE's tensors, whose names are those of Qwen3Moe but for the experts."""
    names = list(names)
    layers = {name.partition(_EXPERTS)[0] for name in names if _EXPERTS in name}
    found = {name: Part((name,)) for name in names if _EXPERTS not in name}
    return found | _stack_experts(layers, architecture["num_experts"])


def _take_rows(start: int, size: int) -> Change:
    """Return the change that takes some rows of a matrix; rows beyond the last make the shape wrong, which is reported."""
    return lambda matrix: matrix[start : start + size]


def _stack_pairs(*tensors: Tensor) -> Tensor:
    """Stack the matrices of gates and of values, by turns, to [experts, 2 * rows, width]."""
    return torch.stack([torch.cat(pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)])


def _gpt2(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return DiffuGPT's architecture, a GPT-2."""
    _check_fixed(config, _GPT2_FIXED, where)
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon")
    kept = ("activation_function", "n_inner", "embd_pdrop", "attn_pdrop", "resid_pdrop")
    return {
        "model_type": "gpt2",
        **{key: _number(config, key, where) for key in sizes},
        **{key: config[key] for key in kept if config.get(key) is not None},
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", True)),
    }


def _gpt2_parts(names: Names, architecture: Mapping[str, Any]) -> dict[str, Part]:
    """Map DiffuGPT's tensors; the table has a separate name, and causal masks of 4 dimensions are left out."""
    return _adapted_parts(names, "transformer.", "transformer.wte.weight", bool(architecture["tie_word_embeddings"]))


def _llama_parts(names: Names, architecture: Mapping[str, Any]) -> dict[str, Part]:
    """Map DiffuLLaMA's tensors, which have Llama's names or the prefix of the adapted model."""
    return _adapted_parts(names, "model.", "model.embed_tokens.weight", bool(architecture["tie_word_embeddings"]))


def _adapted_parts(names: Names, prefix: str, table: str, tied: bool) -> dict[str, Part]:
    """Map tensors of an adapted causal model; where head and table are one, the file may have it by either name."""
    found: dict[str, Part] = {}
    for name in names:
        if name.endswith(CAUSAL_MASKS):
            continue
        ours = f"{prefix}{name.removeprefix(_DENOISER)}" if name.startswith(_DENOISER) else name
        found[table if name == "embed_tokens.weight" else ours] = Part((name,))
    if tied and table not in found and "lm_head.weight" in found:
        found[table] = found.pop("lm_head.weight")
    return found


def _renamed(rename: Callable[[str], str] = str) -> Callable[[Names, Mapping[str, Any]], dict[str, Part]]:
    """Return the map of tensors that have other names alone."""
    return lambda names, architecture: {rename(name): Part((name,)) for name in names}


def _check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    """Raise PublishedError for a setting with another value than the one that is read."""
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise PublishedError(f"{where}: {key} is {config[key]!r}, and {value!r} is read")


READERS = {
    "llada": Reader(_llada, (126464, 126336), False, _renamed(_llada_name)),
    "llada2_moe": Reader(_llada2, (157184, 156895), False, _llada2_parts, in_blocks=True, block_size=_LLADA2_BLOCK),
    "dream": Reader(_qwen("qwen2"), (152064, 151666), True, _renamed()),
    "sdar": Reader(_qwen("qwen3", "head_dim"), (151936, 151669), False, _renamed(), in_blocks=True),
    "sdar_moe": Reader(_qwen3_moe, (151936, 151669), False, _qwen3_moe_parts, in_blocks=True),
    "diffugpt": Reader(_gpt2, _NO_MASK, True, _gpt2_parts),
    "diffullama": Reader(_qwen("llama"), _NO_MASK, True, _llama_parts),
    "a2d-llama": Reader(_qwen("llama"), _NO_MASK, False, _renamed()),
    "a2d-qwen2": Reader(_qwen("qwen2"), _NO_MASK, False, _renamed()),
    "a2d-qwen3": Reader(_qwen("qwen3", "head_dim"), _NO_MASK, False, _renamed()),
}
