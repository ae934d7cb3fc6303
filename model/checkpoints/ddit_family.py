"""Published networks of the DDiT family as our backbone `ddit`: sizes, the section of a file, and the map of tensors.

Sizes come from the tensors, which cannot be wrong; the config adds what no tensor tells (heads, length, schedule), and
is refused where it contradicts them. Every tensor is used, and none may be missing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.ddit_settings import Stated
from model.checkpoints.errors import PublishedError
from model.checkpoints.network import Change, Network, Part, shorten
from model.checkpoints.weights import Weights

FREQUENCIES = 256
_IGNORED = ("sampling_eps_min", "sampling_eps_max", "block_diff_mask")
_CACHES = ("cos_cached", "sin_cached")
_BERT_ROWS, _BERT_MASK = 30522, 103
NEVER = -1e4
"""Bias of a token that is never predicted: its probability underflows to 0 in every floating-point type."""
_MULTIPLE = 128
"""GIDD pads its table to a multiple of it."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network that its tensors tell; `classes` has one more row, of the null condition."""

    rows: int
    width: int
    cond_dim: int
    layers: int
    expansion: int
    classes: int | None


def read_network(weights: Weights, stated: Stated, where: str, mask: int | None) -> Network:
    """Map the tensors of a published network to ours.

    Arguments:
        weights: its tensors; stated: what its config says; where: the name of the source, for messages.
        mask: row of the mask that the user or the tokenizer gives; None: the last row, or 103 of BERT's vocabulary.
    Raises PublishedError for tensors that are missing, left over or of another shape, for a config that contradicts
    them, and for a setting that neither states.
    """
    prefix = find_prefix(weights, where)
    names = {name.removeprefix(prefix): name for name in weights}
    sizes = measure(weights, names, where)
    compare(stated, sizes, where)
    shapes = dict(shapes_of(sizes))
    check_names(weights, names, shapes, where)
    process = stated.process or ("hybrid" if stated.p_uniform else "absorbing")
    states = _count_states(stated, sizes, where)
    mask = find_mask(stated.family, process, states, mask, where)
    tokens = states if mask is None or mask < states - 1 else mask
    notes = list(_describe_mask(process, states, sizes.rows, mask))
    changes = _change_rows(process, states, sizes.rows, mask)
    tensors = {
        f"network.{ours}": Part((names[theirs],), changes.get(theirs))
        for ours, theirs in _names(sizes)
        if theirs in shapes
    }
    if sizes.classes is not None:
        kept = sizes.classes + 1
        source = names["cond_map.embedding_table.weight"]
        tensors["network.told.condition.table.weight"] = Part((source,), lambda table: table[:kept])
        notes.append(
            f"class {sizes.classes} is the null condition of classifier-free guidance; the last row of cond_map, which "
            "their code never trains, is left out"
        )
    section = _section(stated, sizes, process, tokens, where)
    if stated.family == "bd3lm":
        notes.append(
            "it was trained on clipped noise levels; our objective takes all of them, so the bound is comparable"
        )
    order = tuple(names[name] for name in names if name in shapes)
    facts = tuple(_describe(stated.family, sizes, section, process, mask))
    return Network(stated.family, section, tensors, order, facts, tuple(notes))


def _describe(
    family: str, sizes: Sizes, section: dict[str, Any], process: str, mask: int | None
) -> Iterator[tuple[str, str]]:
    """Yield what was understood, pairs of a name and a text."""
    schedule = ", ".join(f"{key}: {value}" for key, value in section["schedule"].items())
    yield "family", f"{family} (backbone ddit, objective {section['objective']['type']})"
    yield (
        "sizes",
        f"{sizes.layers} layers, width {sizes.width}, {section['backbone']['num_heads']} heads, {sizes.rows:,} rows, length "
        f"{section['length']:,}",
    )
    yield "process", f"{process}, schedule {{{schedule}}}"
    yield "mask", "none" if mask is None else f"token {mask}"
    is_conditioned = section["time_conditioning"]
    yield (
        "time",
        section["backbone"]["time_embedding"] if is_conditioned else "none: not conditioned on the noise level",
    )
    block = section["objective"].get("block_size")
    yield "attention", "full" if block is None else f"blocks of {block} tokens"
    if sizes.classes is not None:
        yield "classes", f"{sizes.classes}, and the null condition"


def find_prefix(weights: Weights, where: str) -> str:
    """Return the prefix of the tensors' names; raise PublishedError where there is no embedding."""
    for prefix in ("", "backbone.", "model.", "module."):
        if f"{prefix}vocab_embed.embedding" in weights:
            return prefix
    some = shorten(sorted(weights))
    raise PublishedError(f"{where}: has no tensor vocab_embed.embedding, as these networks have; it has {some}")


def measure(weights: Weights, names: Mapping[str, str], where: str, *, is_causal: bool = False) -> Sizes:
    """Return the sizes that the tensors tell, `cond_dim` 0 in an autoregressive network; raise PublishedError where one that tells them is missing."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in names:
            raise PublishedError(f"{where}: lacks the tensor {name}")
        found = weights[names[name]].shape
        if len(found) != dims:
            raise PublishedError(f"{where}: {name} has the shape {list(found)}; expected {dims} axes")
        return found

    rows, width = shape("vocab_embed.embedding", 2)
    cond_dim = 0 if is_causal else shape("sigma_map.mlp.0.weight", 2)[0]
    hidden = shape("blocks.0.mlp.0.weight", 2)[0]
    indices = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    layers = len(indices)
    if indices != {str(index) for index in range(layers)}:
        raise PublishedError(f"{where}: its blocks are {shorten(sorted(indices))}; expected 0 to {layers - 1}")
    if width == 0 or hidden % width:
        raise PublishedError(f"{where}: the feed-forward width {hidden} is not a multiple of the width {width}")
    classes = None
    if "cond_map.embedding_table.weight" in names:
        classes = shape("cond_map.embedding_table.weight", 2)[0] - 2
        if classes < 1:
            raise PublishedError(f"{where}: cond_map has {classes + 2} rows; expected one for each class and two more")
    return Sizes(rows, width, cond_dim, layers, hidden // width, classes)


def compare(stated: Stated, sizes: Sizes, where: str) -> None:
    """Raise PublishedError where the config states another size than the tensors have."""
    rows = sizes.rows
    if stated.family == "gidd" and stated.vocab is not None and rows != stated.vocab:
        rows = stated.vocab if rows == math.ceil(stated.vocab / _MULTIPLE) * _MULTIPLE else rows
    pairs = (
        ("width", stated.width, sizes.width),
        ("cond_dim", stated.cond_dim, sizes.cond_dim),
        ("number of layers", stated.layers, sizes.layers),
        ("vocabulary size", stated.vocab, rows),
        ("number of classes", stated.classes, sizes.classes),
    )
    wrong = [
        f"{name} {said} in the config and {found} in the tensors" for name, said, found in pairs if _differ(said, found)
    ]
    if wrong:
        raise PublishedError(f"{where}: config and tensors contradict each other: {'; '.join(wrong)}")


def _differ(said: int | None, found: int | None) -> bool:
    return said is not None and said != found


def shapes_of(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each trained tensor of the published network."""
    width, cond, hidden = sizes.width, sizes.cond_dim, sizes.expansion * sizes.width
    yield "vocab_embed.embedding", (sizes.rows, width)
    yield from _linear("sigma_map.mlp.0", cond, FREQUENCIES)
    yield from _linear("sigma_map.mlp.2", cond, cond)
    if sizes.classes is not None:
        yield "cond_map.embedding_table.weight", (sizes.classes + 2, cond)
    for index in range(sizes.layers):
        at = f"blocks.{index}."
        yield f"{at}norm1.weight", (width,)
        yield f"{at}attn_qkv.weight", (3 * width, width)
        yield f"{at}attn_out.weight", (width, width)
        yield f"{at}norm2.weight", (width,)
        yield from _linear(f"{at}mlp.0", hidden, width)
        yield from _linear(f"{at}mlp.2", width, hidden)
        yield from _linear(f"{at}adaLN_modulation", 6 * width, cond)
    yield "output_layer.norm_final.weight", (width,)
    yield from _linear("output_layer.linear", sizes.rows, width)
    yield from _linear("output_layer.adaLN_modulation", 2 * width, cond)


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _names(sizes: Sizes) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor in our network and in the published one, without that of the condition."""
    yield "embedding.weight", "vocab_embed.embedding"
    pairs: list[tuple[str, str, tuple[str, ...]]] = [("told.noise.net", "sigma_map.mlp", (".0", ".2"))]
    for index in range(sizes.layers):
        ours, theirs = f"layers.{index}.", f"blocks.{index}."
        yield f"{ours}norm_attention.weight", f"{theirs}norm1.weight"
        yield f"{ours}attention.to_qkv.weight", f"{theirs}attn_qkv.weight"
        yield f"{ours}attention.to_out.weight", f"{theirs}attn_out.weight"
        yield f"{ours}norm_feed_forward.weight", f"{theirs}norm2.weight"
        pairs.append((f"{ours}feed_forward", f"{theirs}mlp", (".0", ".2")))
        pairs.append((f"{ours}modulation.linear", f"{theirs}adaLN_modulation", ("",)))
    yield "final_norm.weight", "output_layer.norm_final.weight"
    pairs += [
        ("final_modulation.linear", "output_layer.adaLN_modulation", ("",)),
        ("head", "output_layer.linear", ("",)),
    ]
    for ours, theirs, ends in pairs:
        for end in ends:
            for part in ("weight", "bias"):
                yield f"{ours}{end}.{part}", f"{theirs}{end}.{part}"


def check_names(weights: Weights, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise PublishedError for tensors that are missing, of another shape, or left over."""
    missing = [name for name in shapes if name not in names]
    odd = [
        f"{name} is {list(weights[names[name]].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in names and weights[names[name]].shape != shape
    ]
    left = [name for name in names if name not in shapes and not _is_buffer(weights, names[name], name, where)]
    problems = [
        f"{kind}: {shorten(found)}"
        for kind, found in (("missing", missing), ("of another shape", odd), ("not known", left))
        if found
    ]
    if problems:
        raise PublishedError(f"{where}: its tensors are not those of the network: {'; '.join(problems)}")


def _is_buffer(weights: Weights, name: str, short: str, where: str) -> bool:
    """Return True for a tensor that is computed and not trained; raise PublishedError for one of another value."""
    last = short.rpartition(".")[2]
    if last == "inv_freq":
        given = weights.read(name).double()
        half = len(given)
        ours = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / max(half, 1))
        is_rough = weights[name].dtype in (torch.bfloat16, torch.float16)
        if given.dim() != 1 or not torch.allclose(given, ours, rtol=1e-2 if is_rough else 1e-4):
            raise PublishedError(f"{where}: {short} is not of rotary positions with the base 10,000, which ours are")
        return True
    if last == "logit_bias":
        if bool((weights.read(name) != 0).any()):
            raise PublishedError(f"{where}: logit_bias is not 0, and our network has none")
        return True
    return short in _IGNORED or last in _CACHES


def _count_states(stated: Stated, sizes: Sizes, where: str) -> int:
    """Return the number of states of the process, the mask's among them; GIDD's table has rows beyond them."""
    if stated.family != "gidd":
        return sizes.rows
    if stated.vocab is None:
        raise PublishedError(f"{where}: its config lacks vocab_size, which the padded table of GIDD does not tell")
    return stated.vocab


def find_mask(family: str, process: str, states: int, mask: int | None, where: str) -> int | None:
    """Return the row of the mask, the given or the usual one, None for uniform noise; raise PublishedError."""
    if process == "uniform":
        if mask is not None:
            raise PublishedError(f"{where}: has uniform noise, so no token is its mask; leave --mask-id out")
        return None
    found = mask if mask is not None else _BERT_MASK if states == _BERT_ROWS else states - 1
    if not 0 <= found < states:
        raise PublishedError(f"{where}: the mask is token {found}, and the vocabulary has {states} tokens")
    if family in ("sedd", "gidd") and found != states - 1:
        raise PublishedError(f"{where}: the mask of {family} is its last token, {states - 1}; got {found}")
    return found


def _describe_mask(process: str, states: int, rows: int, mask: int | None) -> Iterator[str]:
    if mask is None:
        yield "uniform noise: every row is a data token, also one that a tokenizer adds as padding"
    elif mask < states - 1:
        yield (
            f"the mask is token {mask}, inside the vocabulary; here it is the state after the last token, and token {mask} "
            "is never predicted, as in their code"
        )
    if rows > states:
        yield (
            f"rows {states} to {rows - 1} pad the table and are left out; the softmax of their code includes them, with a "
            "probability that training takes to 0"
        )


def _change_rows(process: str, states: int, rows: int, mask: int | None) -> dict[str, Change]:
    """Return how tables over the vocabulary change: padding cut off, and a mask inside the vocabulary moved to its end."""
    tables = ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias")
    if mask is not None and mask < states - 1:

        def moved(table: Tensor) -> Tensor:
            return torch.cat([table[:states], table[mask : mask + 1]])

        def silenced(bias: Tensor) -> Tensor:
            bias = moved(bias)
            bias[mask] = NEVER
            return bias

        return {tables[0]: moved, tables[1]: moved, tables[2]: silenced}
    if rows > states:
        return dict.fromkeys(tables, lambda table: table[:states])
    return {}


def _section(stated: Stated, sizes: Sizes, process: str, tokens: int, where: str) -> dict[str, Any]:
    """Return the section `model` of a file that builds the network; `tokens` is the number of data tokens."""
    heads, family = stated.heads, stated.family
    if heads is None:
        raise PublishedError(
            f"{where}: the number of heads is not stated, and no tensor tells it; give --settings FILE"
        )
    if heads < 1 or sizes.width % (2 * heads):
        raise PublishedError(
            f"{where}: the config says {heads} heads, which do not divide the width {sizes.width} into even parts"
        )
    if stated.length is None:
        raise PublishedError(f"{where}: the length of sequences is not stated; give --settings FILE")
    objective: dict[str, Any] = {"type": {"duo": "udlm"}.get(family, family)}
    if family == "bd3lm":
        if stated.block_size is None:
            raise PublishedError(f"{where}: its config lacks block_size")
        objective["block_size"] = stated.block_size
    if family == "sedd" and stated.scale_by_sigma is not None:
        objective["scale_by_sigma"] = stated.scale_by_sigma
    noise: dict[str, Any] = {"type": process}
    if process == "hybrid":
        noise["p_uniform"] = stated.p_uniform
    schedule = stated.schedule or {"type": "loglinear", "eps": 0.0 if family == "gidd" else 1e-3}
    backbone = {
        "type": "ddit",
        "d_model": sizes.width,
        "num_layers": sizes.layers,
        "num_heads": heads,
        "d_ff": sizes.expansion,
        "dropout": 0.1 if stated.dropout is None else stated.dropout,
        "cond_dim": sizes.cond_dim,
        "time_embedding": "time" if family == "gidd" else "sigma",
    }
    if sizes.classes is not None:
        backbone["condition_silu"] = "each"
    section: dict[str, Any] = {
        "model_type": "diffusion",
        "name": family,
        "process": noise,
        "schedule": dict(schedule),
        "objective": objective,
        "backbone": backbone,
        "vocab_size": tokens,
        "length": stated.length,
        "time_conditioning": _is_time_conditioned(stated, process, where),
    }
    if sizes.classes is not None:
        section["condition"] = {"type": "class", "num_classes": sizes.classes}
    return section


def _is_time_conditioned(stated: Stated, process: str, where: str) -> bool:
    """Return True if the network is conditioned on the noise level, which uniform noise needs."""
    if process == "absorbing" and stated.family != "gidd":
        return bool(stated.time_conditioning)
    if stated.time_conditioning is False:
        raise PublishedError(
            f"{where}: has {process} noise and time_conditioning false, a combination that is not read"
        )
    return True
