"""Published language models that denoise, as our backbone `hugging_face`: LLaDA, Dream, SDAR and dLLM's a2d models.

They are Llama, Qwen2 and Qwen3 of transformers with other names and full or blockwise attention, so their own code is not
needed. The config decides the architecture, and every tensor must have its name and shape.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from model.checkpoints.errors import PublishedError
from model.checkpoints.network import Change, Network, shorten
from model.checkpoints.weights import Weights
from model.hub import MAX_LAYERS

_LONGEST = 4096
_NO_MASK = (0, 0)
_HALVES = {"bfloat16", "float16"}
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


class _Reader(NamedTuple):
    """Family: its architecture in transformers, the mask of the published model, its shift, and its names."""

    architecture: Callable[[Mapping[str, Any], str], dict[str, Any]]
    mask: tuple[int, int]
    """Vocabulary size of the published model, and its mask."""
    shift: bool
    rename: Callable[[str], str]


def is_language_model(config: Mapping[str, Any]) -> bool:
    """Return True for the config.json of a family that this module reads."""
    return str(config.get("model_type", "")).lower() in _READERS


def read_language_model(weights: Weights, config: Mapping[str, Any], where: str, mask: int | None) -> Network:
    """Map the tensors of a published language model to those of our backbone `hugging_face`.

    Arguments:
        weights: its tensors; config: its config.json; where: the name of the source, for messages.
        mask: token that is the mask; None: that of the config, or of the published model of this size.
    Raises PublishedError for a setting that is not read, and for tensors that are missing, left over or of another shape.
    """
    family = str(config["model_type"]).lower()
    reader = _READERS[family]
    architecture = reader.architecture(config, where)
    shapes = _shapes(architecture, where)
    tied = bool(architecture["tie_word_embeddings"])
    names = {reader.rename(name): name for name in weights}
    _check_tensors(weights, names, shapes, tied, where)
    kept = [name for name in shapes if name in names and not (tied and name == "lm_head.weight")]
    kept_names = tuple(names[name] for name in kept)
    rows: int = architecture["vocab_size"]
    mask = _find_mask(config, reader, rows, mask, where)
    block = config.get("block_size") if family == "sdar" else None
    if family == "sdar" and (not isinstance(block, int) or block < 1):
        raise PublishedError(f"{where}: its config lacks block_size")
    objective = {"type": "mdlm"} if block is None else {"type": "bd3lm", "block_size": block}
    length = min(int(architecture["max_position_embeddings"]), _LONGEST)
    dtypes = {str(weights[name].dtype).removeprefix("torch.") for name in kept_names}
    backbone = {
        "type": "hugging_face",
        "architecture": architecture,
        "adapt": "causal",
        "shift": reader.shift,
        "mask_token_id": mask,
        "dtype": dtypes.pop() if len(dtypes) == 1 and dtypes <= _HALVES else "float32",
    }
    section = {
        "model_type": "diffusion",
        "name": family,
        "process": {"type": "absorbing"},
        "schedule": {"type": "loglinear", "eps": 1e-3},
        "objective": objective,
        "backbone": backbone,
        "vocab_size": rows,
        "length": length,
        "time_conditioning": False,
    }
    tensors: dict[str, tuple[str, Change | None]] = {f"network.model.{name}": (names[name], None) for name in kept}
    facts = tuple(_describe(family, architecture, section, reader, mask))
    notes = [
        "their likelihood code leaves the mask in the softmax, and ours takes it out: no difference once it is trained"
    ]
    if architecture["max_position_embeddings"] > length:
        notes.append(
            f"it has {architecture['max_position_embeddings']:,} positions; rows and samples have {length:,} unless set"
        )
    return Network(family, section, tensors, kept_names, facts, tuple(notes))


def _describe(
    family: str, architecture: Mapping[str, Any], section: Mapping[str, Any], reader: _Reader, mask: int
) -> Iterator[tuple[str, str]]:
    block = section["objective"].get("block_size")
    kind = section["objective"]["type"]
    yield "family", f"{family} (backbone hugging_face, architecture {architecture['model_type']}, objective {kind})"
    yield (
        "sizes",
        f"{architecture['num_hidden_layers']} layers, width {architecture['hidden_size']}, "
        f"{architecture['num_attention_heads']} heads, {architecture['num_key_value_heads']} of keys and values, "
        f"{architecture['vocab_size']:,} rows, length {section['length']:,}",
    )
    yield "process", "absorbing, schedule {type: loglinear, eps: 0.001}"
    yield "mask", f"token {mask}"
    yield "time", "none: not conditioned on the noise level"
    yield "shift", "logits are read one position before their token" if reader.shift else "none"
    yield "attention", "full" if block is None else f"blocks of {block} tokens"


def _find_mask(config: Mapping[str, Any], reader: _Reader, rows: int, mask: int | None, where: str) -> int:
    size, usual = reader.mask
    found = mask if mask is not None else config.get("mask_token_id", usual if rows == size else None)
    if found is None:
        raise PublishedError(f"{where}: its config has no mask_token_id; name the mask: --mask-id N")
    if not isinstance(found, int) or not 0 <= found < rows:
        raise PublishedError(f"{where}: the mask is token {found}, and the vocabulary has {rows} tokens")
    return found


def _shapes(architecture: dict[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an architecture's parameters; it is built without memory for them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if not 0 < architecture["num_hidden_layers"] <= MAX_LAYERS:
        raise PublishedError(
            f"{where}: has {architecture['num_hidden_layers']:,} layers, and 1 to {MAX_LAYERS:,} are read"
        )
    values = {key: value for key, value in architecture.items() if key != "model_type"}
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture["model_type"], **values))
    except Exception as error:  # transformers raises many types
        text = " ".join(str(error).split())[:200]
        raise PublishedError(f"{where}: its config is not that of a model: {text}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def _check_tensors(
    weights: Weights, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], tied: bool, where: str
) -> None:
    """Raise PublishedError for tensors that are missing, of another shape, or left over."""
    copies = {"lm_head.weight"} if tied else set()
    missing = [name for name in shapes if name not in names]
    odd = [
        f"{names[name]} is {list(weights[names[name]].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in names and weights[names[name]].shape != shape
    ]
    left = [
        names[name] for name in names if name not in shapes and name not in copies and not name.endswith("inv_freq")
    ]
    problems = [
        f"{kind}: {shorten(found)}"
        for kind, found in (("missing", missing), ("of another shape", odd), ("not known", left))
        if found
    ]
    if problems:
        raise PublishedError(f"{where}: its tensors are not those of its config: {'; '.join(problems)}")


def _llada(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return LLaDA's architecture, a Llama."""
    for key, value in _LLADA_FIXED.items():
        if config.get(key, value) != value:
            raise PublishedError(f"{where}: {key} is {config[key]!r}, and {value!r} is read")
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


_READERS = {
    "llada": _Reader(_llada, (126464, 126336), False, _llada_name),
    "dream": _Reader(_qwen("qwen2"), (152064, 151666), True, lambda name: name),
    "sdar": _Reader(_qwen("qwen3", "head_dim"), (151936, 151669), False, lambda name: name),
    "a2d-llama": _Reader(_qwen("llama"), _NO_MASK, False, lambda name: name),
    "a2d-qwen2": _Reader(_qwen("qwen2"), _NO_MASK, False, lambda name: name),
    "a2d-qwen3": _Reader(_qwen("qwen3", "head_dim"), _NO_MASK, False, lambda name: name),
}
