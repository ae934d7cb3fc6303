"""State dict of one performer-pytorch 1.1.4 network: its shape, and its tensors under our names."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from model.activations import ActivationFunctions
from model.checkpoint import CheckpointError
from model.types import PerformerParams, default_features
from model_factory.yaml_config.from_registry import name_of

Tensors = dict[str, Tensor]


class StackWeights:
    """Tensors of one network under `prefix`, with a record of those that were read. `is_lm`: a PerformerLM."""

    def __init__(self, state_dict: Mapping[str, Tensor], prefix: str, *, is_lm: bool) -> None:
        self.prefix, self.is_lm = prefix, is_lm
        self.performer = "performer." if is_lm else ""
        self.tensors = {key.removeprefix(prefix): x for key, x in state_dict.items() if key.startswith(prefix)}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise CheckpointError(f"the state dict lacks {self.prefix}{key}")
        self._read.add(key)
        return self.tensors[key]

    def get(self, key: str) -> Tensor | None:
        """Return the tensor of `key`, of any shape, or None."""
        if key not in self:
            return None
        return self[key]

    @property
    def layers(self) -> str:
        """Prefix of the layers' keys."""
        return f"{self.performer}net.layers."

    @property
    def num_layers(self) -> int:
        """Number of pairs of attention and feed-forward; with cross-attention, two pairs make one of our layers."""
        keys = (key.removeprefix(self.layers) for key in self.tensors if key.startswith(self.layers))
        return 1 + max((int(key.split(".")[0]) for key in keys), default=-1)

    @property
    def steps_since_redraw(self) -> int:
        """Training steps since the features were last drawn."""
        return int(self[f"{self.performer}proj_updater.calls_since_last_redraw"])

    def list_unread(self) -> str:
        """List up to five keys that were not read, without those of the updater, which are copies."""
        updater = f"{self.performer}proj_updater."
        left = [key for key in self.tensors if key not in self._read and not key.startswith(updater)]
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        return ", ".join(self.prefix + key for key in left[:5]) + more


def find_mismatches(weights: StackWeights, params: PerformerParams, is_decoder: bool) -> list[str]:
    """Return each mismatch of `params` and the weights as `KEY is X, and the checkpoint has Y (its key)`."""
    unsupported = list(_find_unsupported(weights))
    if unsupported:
        return unsupported
    shape = list(_differences(weights, params)) + list(_position_differences(weights, params))
    return [*_fixed_differences(params, is_decoder), *shape]


def _find_unsupported(weights: StackWeights) -> Iterator[str]:
    for key in weights.tensors:
        if ".local_attn." in key:
            yield f"local attention ({weights.prefix}{key}) is not supported"
            return
        if key.startswith(weights.layers) and key.endswith(".fn.fn.to_q.weight"):
            yield f"shifted tokens ({weights.prefix}{key}) are not supported"
            return


def _fixed_differences(params: PerformerParams, is_decoder: bool) -> Iterator[str]:
    types = set(params.attention_types)
    fitting = {"causal_linear"} if is_decoder else {"linear", "causal_linear"}
    if len(types) > 1 or not types <= fitting:
        fits = " or ".join(sorted(fitting, reverse=True))
        written = params.attention_types if isinstance(params.attention_type, list) else params.attention_types[0]
        yield f"attention_type is {written}, and performer-pytorch has {fits} alone, in all layers"
    if params.feature_map not in ("favor+", "relu"):
        name = name_of(params.feature_map)
        yield f"feature_map is {name}, and performer-pytorch has favor+, or relu (generalized_attention)"
    if params.qk_norm:
        yield "qk_norm is true, and performer-pytorch has none"
    if params.num_kv_heads not in (None, params.num_heads):
        yield f"num_kv_heads is {params.num_kv_heads}, and performer-pytorch does not group heads"
    if params.input_dim is not None:
        yield f"input_dim is {params.input_dim}, and performer-pytorch has no projection of its input"


def _differences(weights: StackWeights, params: PerformerParams) -> Iterator[str]:
    first = f"{weights.layers}0."
    to_q, w1, w2 = (weights[first + key] for key in ("0.fn.to_q.weight", "1.fn.fn.w1.weight", "1.fn.fn.w2.weight"))
    features, head_dim = weights[f"{first}0.fn.fast_attention.projection_matrix"].shape
    inner, d_model = to_q.shape
    gain = weights.get(f"{first}0.g")
    per_layer = 2 if params.use_cross_attention else 1
    own_features = params.nb_features or default_features(params.head_dim)
    is_gated = w1.shape[0] == 2 * w2.shape[1]
    activation = ActivationFunctions.GEGLU if is_gated else ActivationFunctions.GELU
    embedding = weights["token_emb.weight"] if weights.is_lm else None
    found: list[tuple[str, object, object, str]] = [
        ("d_model", params.d_model, d_model, f"{first}0.fn.to_q.weight"),
        ("num_layers", params.num_layers, weights.num_layers / per_layer, weights.layers),
        ("num_heads", params.num_heads, inner // head_dim, f"{first}0.fn.to_q.weight"),
        ("head width d_model / num_heads", params.head_dim, head_dim, f"{first}0.fn.fast_attention.projection_matrix"),
        ("nb_features", own_features, features, f"{first}0.fn.fast_attention.projection_matrix"),
        ("d_ff", params.d_ff, w2.shape[1] / d_model, f"{first}1.fn.fn.w2.weight"),
        ("activation", params.activation, activation, f"{first}1.fn.fn.w1.weight"),
        ("use_rezero", params.use_rezero, gain is not None and gain.dim() == 0, f"{first}0.g"),
        ("use_scalenorm", params.use_scalenorm, gain is not None and gain.dim() == 1, f"{first}0.g"),
        ("vocab_size", params.vocab_size, None if embedding is None else embedding.shape[0], "token_emb.weight"),
    ]
    if embedding is not None and weights.prefix != "enc.":
        found.append(("tie_embeddings", params.tie_embeddings, "to_out.weight" not in weights, "to_out.weight"))
    for key, given, there, where in found:
        if given != there:
            yield f"{key} is {_written(given)}, and the checkpoint has {_written(there)} ({weights.prefix}{where})"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"


def _position_differences(weights: StackWeights, params: PerformerParams) -> Iterator[str]:
    if not weights.is_lm:
        if params.position == "absolute":
            yield "position is absolute, and a bare Performer has no positions; use rotary or none"
        return
    is_rotary = "layer_pos_emb.emb" in weights
    if params.position != ("rotary" if is_rotary else "absolute"):
        yield f"position is {params.position}, and the checkpoint's are {'rotary' if is_rotary else 'absolute'}"
        return
    length = _get_position_table(weights).shape[0]
    is_axial = "pos_emb.weights.0" in weights  # its table may be longer than max_seq_len
    if params.max_length != length and not (is_axial and params.max_length and params.max_length <= length):
        bound = f"at most {length}" if is_axial else f"{length}"
        yield f"max_length is {_written(params.max_length)}, and the checkpoint's positions are {bound}"


def _get_position_table(weights: StackWeights) -> Tensor:
    """Return the position table [max_seq_len, d_model]; axial parts (arXiv 1912.12180) are summed."""
    if "pos_emb.emb" in weights:
        return weights["pos_emb.emb"]
    if "pos_emb.weights.0" not in weights:
        return weights["pos_emb.emb.weight"]
    parts: list[Tensor] = []
    while (part := weights.get(f"pos_emb.weights.{len(parts)}")) is not None:
        parts.append(part[0])  # [1, .., n, .., 1, d_model]
    return sum(parts[1:], parts[0]).flatten(0, -2)


def convert_weights(weights: StackWeights, params: PerformerParams, *, is_hidden: bool) -> Tensors:
    """Return the tensors under the names of our stack, extra parts included; `is_hidden`: without the head."""
    is_rotary = params.position == "rotary"
    cross = bool(params.use_cross_attention)
    tensors: Tensors = {}
    for index in range(params.num_layers):
        at = f"layers.{index}."
        theirs = f"{weights.layers}{index * (1 + cross)}."
        tensors |= _convert_attention(weights, f"{theirs}0.", f"{at}self_attention.", params, is_rotated=is_rotary)
        if cross:
            tensors |= _convert_feed_forward(weights, f"{theirs}1.", f"{at}feed_forward_between.", params)
            theirs = f"{weights.layers}{2 * index + 1}."
            tensors |= _convert_attention(weights, f"{theirs}0.", f"{at}cross_attention.", params, is_rotated=False)
        tensors |= _convert_feed_forward(weights, f"{theirs}1.", f"{at}feed_forward.", params)
    if not weights.is_lm:
        no_norm = {} if params.use_rezero else {"final_norm.absent": torch.zeros(0)}
        return tensors | no_norm
    tensors["input.embedding.weight"] = weights["token_emb.weight"]
    tensors["input.position"] = _get_position_table(weights)[: params.max_length]
    weights.get("layer_pos_emb.emb")  # rotary angles, which we compute
    tensors |= {f"final_norm.{key}": weights[f"norm.{key}"] for key in ("weight", "bias")}
    head = {f"head.{key}": weights[f"to_out.{key}"] for key in ("weight", "bias") if f"to_out.{key}" in weights}
    return tensors if is_hidden else tensors | head


def _convert_residual(weights: StackWeights, theirs: str, ours: str, params: PerformerParams) -> Tensors:
    """Convert the norm before a sub-layer, or the factor of ReZero after it."""
    if params.use_rezero:
        return {f"{ours}rezero": weights[f"{theirs}g"]}
    if params.use_scalenorm:
        return {f"{ours}norm.scale": weights[f"{theirs}g"].squeeze(0)}
    return {f"{ours}norm.{key}": weights[f"{theirs}norm.{key}"] for key in ("weight", "bias")}


def _convert_attention(
    weights: StackWeights, theirs: str, ours: str, params: PerformerParams, *, is_rotated: bool
) -> Tensors:
    """Convert one attention layer; if rotary positions apply (`is_rotated`), reorder coordinates to our pairs.

    Their rotary positions rotate the pairs (2 i, 2 i + 1), ours (i, i + D / 2): the rows of to_q and to_k are permuted
    in each head, and the columns of the projection in the same way, so that every product is unchanged.
    """
    tensors = _convert_residual(weights, theirs, ours, params)
    width = params.head_dim
    order = torch.arange(width)
    if is_rotated:
        order = torch.cat([order[0::2], order[1::2]])
    for name in ("to_q", "to_k", "to_v", "to_out"):
        for kind in ("weight", "bias"):
            tensor = weights.get(f"{theirs}fn.{name}.{kind}")
            if tensor is not None and name in ("to_q", "to_k"):
                tensor = tensor.view(-1, width, *tensor.shape[1:])[:, order.to(tensor.device)].flatten(0, 1)
            if tensor is not None:
                tensors[f"{ours}sublayer.{name}.{kind}"] = tensor
    out = tensors[f"{ours}sublayer.to_out.weight"]
    tensors.setdefault(f"{ours}sublayer.to_out.bias", out.new_zeros(out.shape[0]))
    projection = weights[f"{theirs}fn.fast_attention.projection_matrix"]
    tensors[f"{ours}sublayer.core.features.projection_matrix"] = projection[:, order.to(projection.device)]
    return tensors


def _convert_feed_forward(weights: StackWeights, theirs: str, ours: str, params: PerformerParams) -> Tensors:
    """Convert one feed-forward layer; if it is gated, theirs has the gate first and ours the value."""
    tensors = _convert_residual(weights, theirs, ours, params)
    for kind in ("weight", "bias"):
        inner = weights[f"{theirs}fn.fn.w1.{kind}"]
        tensors[f"{ours}sublayer.to_inner.{kind}"] = (
            torch.cat(inner.chunk(2)[::-1]) if params.activation.is_gated else inner
        )
        tensors[f"{ours}sublayer.to_out.{kind}"] = weights[f"{theirs}fn.fn.w2.{kind}"]
    return tensors
