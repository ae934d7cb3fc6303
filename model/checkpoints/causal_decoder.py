"""Autoregressive baseline of MDLM and BD3LM as our decoder: the DDiT network with a causal mask, not conditioned on the noise level.

Its GELU is the approximation with tanh, its norms have no bias, and its head has one.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.ddit_family import NEVER, Sizes, check_names, compare, find_mask, find_prefix, measure, shapes_of
from model.checkpoints.ddit_settings import Stated
from model.checkpoints.errors import PublishedError
from model.checkpoints.network import Change, Network, Part
from model.checkpoints.weights import Weights

_OF_NOISE = ("sigma_map.", "adaLN_modulation")


def read_decoder(weights: Weights, stated: Stated, where: str, mask: int | None) -> Network:
    """Map the tensors of an autoregressive baseline to those of our decoder.

    Arguments:
        weights: its tensors; stated: what its config says; where: the name of the source, for messages.
        mask: row of the mask, which is never predicted; None: the last row, or 103 of BERT's vocabulary.
    Raises PublishedError for tensors that are missing, left over or of another shape, and for a config that contradicts
    them or states no number of heads or length.
    """
    prefix = find_prefix(weights, where)
    names = {name.removeprefix(prefix): name for name in weights}
    if any(part in name for name in names for part in _OF_NOISE):
        raise PublishedError(
            f"{where}: its config says that causal is true: an autoregressive baseline, and its tensors are those of a network "
            "that is conditioned on the noise level, which is not read with a causal mask"
        )
    sizes = measure(weights, names, where, is_causal=True)
    compare(stated, sizes, where)
    shapes = {name: shape for name, shape in shapes_of(sizes) if not any(part in name for part in _OF_NOISE)}
    check_names(weights, names, shapes, where)
    mask = find_mask(stated.family, "absorbing", sizes.rows, mask, where)
    assert mask is not None
    tensors = {ours: Part((names[theirs],), change) for ours, theirs, change in _parts(sizes, mask)}
    section = _section(stated, sizes, mask, where)
    decoder = section["decoder"]
    facts = (
        ("family", "autoregressive baseline (model_type decoder)"),
        (
            "sizes",
            f"{sizes.layers} layers, width {sizes.width}, {decoder['num_heads']} heads, {decoder['vocab_size']:,} tokens, length "
            f"{decoder['max_length']:,}",
        ),
        ("mask", f"token {mask}, which is never predicted"),
        ("attention", "causal"),
    )
    order = tuple(names[name] for name in names if name in shapes)
    return Network(stated.family, section, tensors, order, facts, ())


def _parts(sizes: Sizes, mask: int) -> Iterator[tuple[str, str, Change | None]]:
    """Yield the name of each tensor of ours, of the one that it is made of, and the change; biases that they lack are 0."""
    width, zeros = sizes.width, torch.zeros_like
    is_last = mask == sizes.rows - 1

    def without_mask(table: Tensor) -> Tensor:
        return table[:mask]

    def silenced(bias: Tensor) -> Tensor:
        bias = bias.clone()
        bias[mask] = NEVER
        return bias

    rows = without_mask if is_last else None
    yield "input.embedding.weight", "vocab_embed.embedding", rows
    for index in range(sizes.layers):
        ours, theirs = f"layers.{index}.", f"blocks.{index}."
        for part, norm in (("self_attention", "norm1"), ("feed_forward", "norm2")):
            yield f"{ours}{part}.norm.weight", f"{theirs}{norm}.weight", None
            yield f"{ours}{part}.norm.bias", f"{theirs}{norm}.weight", zeros
        for place, kind in enumerate("qkv"):
            yield f"{ours}self_attention.sublayer.to_{kind}.weight", f"{theirs}attn_qkv.weight", _rows(place, width)
        yield f"{ours}self_attention.sublayer.to_out.weight", f"{theirs}attn_out.weight", None
        yield f"{ours}self_attention.sublayer.to_out.bias", f"{theirs}norm1.weight", zeros
        for part, layer in (("to_inner", "mlp.0"), ("to_out", "mlp.2")):
            for kind in ("weight", "bias"):
                yield f"{ours}feed_forward.sublayer.{part}.{kind}", f"{theirs}{layer}.{kind}", None
    yield "final_norm.weight", "output_layer.norm_final.weight", None
    yield "final_norm.bias", "output_layer.norm_final.weight", zeros
    yield "head.weight", "output_layer.linear.weight", rows
    yield "head.bias", "output_layer.linear.bias", without_mask if is_last else silenced


def _rows(place: int, width: int) -> Change:
    """Return the change that takes queries, keys or values from their common projection."""
    return lambda matrix: matrix[place * width : (place + 1) * width]


def _section(stated: Stated, sizes: Sizes, mask: int, where: str) -> dict[str, Any]:
    """Return the section `model` of a file that builds the decoder."""
    for what, value in (("number of heads", stated.heads), ("length of sequences", stated.length)):
        if value is None:
            raise PublishedError(f"{where}: the {what} is not stated, and no tensor tells it; give --settings FILE")
    heads = stated.heads or 0
    if heads < 1 or sizes.width % (2 * heads):
        raise PublishedError(
            f"{where}: the config says {heads} heads, which do not divide the width {sizes.width} into even parts"
        )
    decoder = {
        "d_model": sizes.width,
        "num_layers": sizes.layers,
        "num_heads": heads,
        "d_ff": sizes.expansion,
        "dropout": 0.1 if stated.dropout is None else stated.dropout,
        "attention_type": "softmax",
        "activation": "GELU_TANH",
        "vocab_size": mask if mask == sizes.rows - 1 else sizes.rows,
        "max_length": stated.length,
        "position": "rotary",
        "tie_embeddings": False,
        "head_bias": True,
    }
    return {"model_type": "decoder", "name": stated.family, "decoder": decoder}
