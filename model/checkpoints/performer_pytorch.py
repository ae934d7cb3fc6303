"""Conversion of performer-pytorch 1.1.4 checkpoints: Performer, PerformerLM and PerformerEncDec.

    model = load_performer_pytorch(theirs.state_dict(), parse_model_config("performer.yml"))

The config is of an encoder (`linear`, or `causal_linear` for `causal=True`), a decoder or an encoder-decoder. Its shape
must match the checkpoint; the error lists every mismatch. `feature_map: relu` corresponds to its
`generalized_attention=True` with ReLU, and `position: rotary` to its rotary positions, where a PerformerLM also adds a
sinusoidal table to its input. A bare Performer takes positions at the call, so both `none` and `rotary` (its `pos_emb`)
are valid. The config decides what a state dict does not contain: causal or not, generalized or not.
`no_projection=True`, reversible and local attention and shifted tokens are not supported. Parts that our configs
cannot select (`model.checkpoints.extra_parts`) are added with the weights, and `save_pretrained` keeps them.

Differences of the outputs, and their reasons; with every eps of performer-pytorch at 0 and no padding, outputs agree to
rounding:
| performer-pytorch | this toolkit |
| --- | --- |
| adds 1e-4 to each feature of queries and keys, which biases weights towards uniform | nothing is added |
| adds 1e-6 to causal denominators, which go down to 1e-8 | nothing is added |
| stabilises keys by their joint maximum: with the eps above, later keys change a causal output | by each key's own |
| a mask zeroes the values but not the denominator: padding shrinks outputs | a mask removes keys |
| float16 gives NaN | computes in float32 |
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from model.checkpoint import CheckpointError, assign_tensors
from model.checkpoints.performer_layout import StackWeights, convert_weights, find_mismatches
from model.model_factory import create_model
from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from model.types import PerformerParams


class Stack(NamedTuple):
    """Weights of one performer-pytorch network, and the parameters of the stack that takes them."""

    weights: StackWeights
    params: PerformerParams
    is_decoder: bool
    name: str
    """Path of the stack in the model and of its parameters in the config: "encoder.", "decoder." or ""."""


def load_performer_pytorch(state_dict: Mapping[str, Tensor], config: ModelConfig) -> nn.Module:
    """Build the model of `config` with the weights of a Performer's, PerformerLM's or PerformerEncDec's state dict.

    Tensors must have the same shape as in the model that `config` describes. Raises CheckpointError, which lists the
    keys of the state dict and the values of the config that do not match.
    """
    kind = detect_class_name(state_dict)
    stacks = list(_pair_stacks(state_dict, config, kind))
    problems = [
        f"{stack.name}{problem}"
        for stack in stacks
        for problem in find_mismatches(stack.weights, stack.params, stack.is_decoder)
    ]
    if problems:
        raise CheckpointError(f"the state dict of a {kind} does not match the config: {'; '.join(problems)}")
    model = create_model(config)
    tensors: dict[str, Tensor] = {}
    for stack in stacks:
        # Their encoder of an encoder-decoder has a head that is never used; ours has no head.
        is_hidden = kind == "PerformerEncDec" and not stack.is_decoder
        own = convert_weights(stack.weights, stack.params, is_hidden=is_hidden)
        own["feature_redraw.state"] = _redraw_state(stack, model)
        tensors |= {stack.name + name: tensor for name, tensor in own.items()}
        unread = stack.weights.list_unread()
        if unread:
            raise CheckpointError(
                f"the state dict of a {kind} has tensors without a counterpart in the model: {unread}"
            )
    assign_tensors(model, tensors, f"the state dict of a {kind} does not match the model")
    return model


def detect_class_name(state_dict: Mapping[str, Tensor]) -> str:
    """Return the performer-pytorch class of a state dict, found by its keys; tensors may be of any shape.

    Raises CheckpointError for any other state dict.
    """
    keys = list(state_dict) if isinstance(state_dict, Mapping) else []
    if any(key.startswith("net.blocks.") or "performer.net.blocks." in key for key in keys):
        raise CheckpointError("the state dict is of a reversible Performer, which is not supported")
    for name, key in (
        ("PerformerEncDec", "dec.net.token_emb.weight"),
        ("PerformerLM", "token_emb.weight"),
        ("AutoregressiveWrapper", "net.token_emb.weight"),
        ("Performer", "net.layers.0.0.fn.to_q.weight"),
        ("Performer", "net.layers.0.0.fn.fn.to_q.weight"),
    ):
        if key in keys:
            return name
    found = f"its keys begin with {', '.join(map(repr, keys[:2]))}" if keys else f"a {type(state_dict).__name__}"
    raise CheckpointError(
        f"this is not a state dict of performer-pytorch's Performer, PerformerLM or PerformerEncDec ({found}); "
        "give model.state_dict() of one of them"
    )


def _pair_stacks(state_dict: Mapping[str, Tensor], config: ModelConfig, kind: str) -> Iterator[Stack]:
    given = config.config
    if kind == "PerformerEncDec":
        if not isinstance(given, EncoderDecoderConfig):
            raise CheckpointError(f"a {kind} needs model_type encoder_decoder, and the config's is {config.model_type}")
        yield Stack(StackWeights(state_dict, "enc.", is_lm=True), given.encoder_params, False, "encoder.")
        decoder = given.decoder_params.model_copy(update={"use_cross_attention": True})
        yield Stack(StackWeights(state_dict, "dec.net.", is_lm=True), decoder, True, "decoder.")
        return
    if not isinstance(given, EncoderConfig | DecoderConfig):
        raise CheckpointError(f"a {kind} needs model_type encoder or decoder, and the config's is {config.model_type}")
    prefix = "net." if kind == "AutoregressiveWrapper" else ""
    weights = StackWeights(state_dict, prefix, is_lm=kind != "Performer")
    yield Stack(weights, given.params, isinstance(given, DecoderConfig), "")


def _redraw_state(stack: Stack, model: nn.Module) -> Tensor:
    """Take the count of steps from the checkpoint; later draws use our seed, since a state dict has none."""
    state: Tensor = model.state_dict()[f"{stack.name}feature_redraw.state"].clone()
    state[2] = stack.weights.steps_since_redraw
    return state
