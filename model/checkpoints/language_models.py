"""Published language models that denoise, as our backbone `hugging_face`.

They are models of transformers with other names and full or blockwise attention, so their own code is not needed. The
config decides the architecture, and every tensor must have its name and shape.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch

from model.checkpoints.errors import PublishedError
from model.checkpoints.language_families import CAUSAL_MASKS, READERS, Reader
from model.checkpoints.network import Network, Part, shorten
from model.checkpoints.weights import Weights
from model.hub import MAX_LAYERS

_LONGEST = 4096
_HALVES = {"bfloat16", "float16"}
_TABLES = ("transformer.wte.weight", "model.embed_tokens.weight")
_HEAD = "lm_head.weight"


def read_language_model(
    weights: Weights, config: Mapping[str, Any], where: str, mask: int | None, family: str
) -> Network:
    """Map the tensors of a published language model to those of our backbone `hugging_face`.

    Arguments:
        weights: its tensors; config: its config.json; where: the name of the source, for messages.
        mask: token that is the mask; None: that of the config, or of the published model of this size.
        family: a key of `READERS`.
    Raises PublishedError for a setting that is not read, and for tensors that are missing, left over or of another shape.
    """
    reader = READERS[family]
    architecture = reader.architecture(config, where)
    parts = reader.parts(weights, architecture)
    notes = [
        "their likelihood code leaves the mask in the softmax, and ours takes it out: no difference once it is trained"
    ]
    if family in ("diffugpt", "diffullama"):
        notes += _count_rows(weights, parts, architecture)
    model = _make_empty(architecture, where)
    shapes = {name: tuple(tensor.shape) for name, tensor in _own_tensors(model)}
    tied = bool(architecture["tie_word_embeddings"])
    _check_tensors(weights, parts, shapes, tied, where)
    kept = {name: parts[name] for name in shapes if name in parts and not (tied and name == _HEAD)}
    trained = dict(model.named_parameters())
    order = tuple(dict.fromkeys(name for ours, part in kept.items() if ours in trained for name in part.names))
    rows: int = architecture["vocab_size"]
    mask = _find_mask(config, reader, rows, mask, where)
    block = config.get("block_size", reader.block_size) if reader.in_blocks else None
    if reader.in_blocks and (not isinstance(block, int) or block < 1):
        raise PublishedError(f"{where}: its config lacks block_size")
    if reader.in_blocks and "block_size" not in config:
        notes.append(f"its config names no block_size; blocks of {block} tokens are those of its code")
    positions = int(model.config.max_position_embeddings)
    length = min(positions, _LONGEST)
    dtypes = {str(weights[name].dtype).removeprefix("torch.") for name in order}
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
        "objective": {"type": "mdlm"} if block is None else {"type": "bd3lm", "block_size": block},
        "backbone": backbone,
        "vocab_size": rows,
        "length": length,
        "time_conditioning": False,
    }
    facts = tuple(_describe(family, model.config, section, reader, mask))
    if positions > length:
        notes.append(f"it has {positions:,} positions; rows and samples have {length:,} unless set")
    tensors = {f"network.model.{name}": part for name, part in kept.items()}
    return Network(family, section, tensors, order, facts, tuple(notes))


def _describe(
    family: str, config: Any, section: Mapping[str, Any], reader: Reader, mask: int
) -> Iterator[tuple[str, str]]:
    block = section["objective"].get("block_size")
    kind, heads = section["objective"]["type"], config.num_attention_heads
    yield "family", f"{family} (backbone hugging_face, architecture {config.model_type}, objective {kind})"
    yield (
        "sizes",
        f"{config.num_hidden_layers} layers, width {config.hidden_size}, {heads} heads, "
        f"{getattr(config, 'num_key_value_heads', heads)} of keys and values, {config.vocab_size:,} rows, "
        f"length {section['length']:,}",
    )
    yield "process", "absorbing, schedule {type: loglinear, eps: 0.001}"
    yield "mask", f"token {mask}"
    yield "time", "none: not conditioned on the noise level"
    yield "shift", "logits are read one position before their token" if reader.shift else "none"
    yield "attention", "full" if block is None else f"blocks of {block} tokens"


def _count_rows(weights: Weights, parts: Mapping[str, Part], architecture: dict[str, Any]) -> Iterator[str]:
    """Set the vocabulary to the rows of the table, to which adapted models add the mask; yield a note if it changes."""
    table = next((parts[name] for name in _TABLES if name in parts), None)
    rows = weights[table.names[0]].shape[0] if table is not None else architecture["vocab_size"]
    if rows != architecture["vocab_size"]:
        yield f"its config has {architecture['vocab_size']:,} tokens, and its table {rows:,} rows, which are taken"
        architecture["vocab_size"] = rows


def _find_mask(config: Mapping[str, Any], reader: Reader, rows: int, mask: int | None, where: str) -> int:
    size, usual = reader.mask
    found = mask if mask is not None else config.get("mask_token_id", usual if rows == size else None)
    if found is None:
        raise PublishedError(f"{where}: its config has no mask_token_id; name the mask: --mask-id N")
    if not isinstance(found, int) or not 0 <= found < rows:
        raise PublishedError(f"{where}: the mask is token {found}, and the vocabulary has {rows} tokens")
    return found


def _make_empty(architecture: dict[str, Any], where: str) -> Any:
    """Return the model of an architecture without memory for its tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in architecture.items() if key != "model_type"}
    layers = architecture.get("num_hidden_layers", architecture.get("n_layer", 0))
    if not 0 < layers <= MAX_LAYERS:
        raise PublishedError(f"{where}: has {layers:,} layers, and 1 to {MAX_LAYERS:,} are read")
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture["model_type"], **values))
    except Exception as error:  # transformers raises many types
        text = " ".join(str(error).split())[:200]
        raise PublishedError(f"{where}: its config is not that of a model: {text}") from error


def _own_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters of a model, and the buffers that its files have."""
    kept = model.state_dict().keys()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name in kept:
            yield name, tensor


def _check_tensors(
    weights: Weights, parts: Mapping[str, Part], shapes: Mapping[str, tuple[int, ...]], tied: bool, where: str
) -> None:
    """Raise PublishedError for tensors that are missing, of another shape, or left over."""
    copies = {_HEAD} if tied else set()
    missing = [name for name in shapes if name not in parts]
    missing += [name for ours in shapes if ours in parts for name in parts[ours].names if name not in weights]
    odd = [] if missing else list(_find_odd(weights, parts, shapes))
    unknown = [name for name in parts if name not in shapes and name not in copies and not name.endswith("inv_freq")]
    used = {name for part in parts.values() for name in part.names}
    left = [parts[name].names[0] for name in unknown]
    left += [name for name in weights if name not in used and not name.endswith(CAUSAL_MASKS)]
    problems = [
        f"{kind}: {shorten(found)}"
        for kind, found in (("missing", missing), ("of another shape", odd), ("not known", left))
        if found
    ]
    if problems:
        raise PublishedError(f"{where}: its tensors are not those of its config: {'; '.join(problems)}")


def _find_odd(weights: Weights, parts: Mapping[str, Part], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield their tensors that do not give the shape of ours."""
    for name, shape in shapes.items():
        part = parts[name]
        try:
            found: tuple[int, ...] | str = part.shape(lambda theirs: weights[theirs].shape)
        except RuntimeError:
            found = "of several shapes"
        if found != shape:
            verb = "is" if part.change is None else "gives"
            text = found if isinstance(found, str) else list(found)
            yield f"{part.names[0]} {verb} {text} instead of {list(shape)}"
