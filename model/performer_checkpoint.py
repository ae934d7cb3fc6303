"""Checkpoints of performer-pytorch 1.1.4: the weights of a Performer, PerformerLM or PerformerEncDec in our networks.

    model = load_performer_pytorch(theirs.state_dict(), parse_model_config("performer.yml"))

The config is of an encoder (`linear`, or `causal_linear` for `causal=True`), a decoder or an encoder-decoder, and its
shape must be the checkpoint's; what does not fit is named. `feature_map: relu` stands for their
`generalized_attention=True` with its ReLU, `position: rotary` for their rotary positions, of which a PerformerLM also
adds a sinusoidal table to its input. A bare Performer takes positions at the call, so there `none` and `rotary`
(their `pos_emb`) both fit. What a state dict does not tell (causal or not, generalized attention, no_projection) is
taken from the config; `no_projection=True`, reversible and local attention and shifted tokens have no counterpart.
The parts that our configs cannot ask for (`model.extra_parts`) come with the weights, and `save_pretrained` keeps them.

Where outputs differ from theirs, and why; with every eps of theirs at 0 and no padding they agree to rounding:
| theirs | ours |
| --- | --- |
| adds 1e-4 to each feature of queries and keys, a pull towards uniform weights | nothing is added |
| adds 1e-6 to causal denominators, which go down to 1e-8 | nothing is added |
| stabilises keys by the maximum over all: with the eps above, later keys change a causal output | by each one's own |
| a mask zeroes the values, and leaves the keys in the denominator: padding shrinks outputs | it leaves keys out |
| float16 is NaN | float32 inside |
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from model.checkpoint import CheckpointError, assign
from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from model.performer_layout import StackWeights, converted, misfits
from model.types import PerformerParams


class Stack(NamedTuple):
    """One of their networks, and the stack of ours that takes its weights."""

    weights: StackWeights
    params: PerformerParams
    is_decoder: bool
    name: str
    """Path of the stack in our model and of its parameters in the config: "encoder.", "decoder." or ""."""


def load_performer_pytorch(state_dict: Mapping[str, Tensor], config: ModelConfig) -> nn.Module:
    """Our model of `config` with the weights of `state_dict`, that of a Performer, PerformerLM or PerformerEncDec.

    Its tensors have the shapes of that network, which `config` must ask for. Raises CheckpointError, which names the
    keys of the state dict and the values of the config that do not fit.
    """
    from model.model_factory import create_model

    kind = kind_of(state_dict)
    stacks = list(_stacks(state_dict, config, kind))
    problems = [
        f"{stack.name}{problem}"
        for stack in stacks
        for problem in misfits(stack.weights, stack.params, stack.is_decoder)
    ]
    if problems:
        raise CheckpointError(f"the state dict of a {kind} does not fit the config: {'; '.join(problems)}")
    model = create_model(config)
    tensors: dict[str, Tensor] = {}
    for stack in stacks:
        # The encoder of an encoder-decoder has a head that is never used: ours has none.
        is_hidden = kind == "PerformerEncDec" and not stack.is_decoder
        own = converted(stack.weights, stack.params, is_hidden=is_hidden)
        own["feature_redraw.state"] = _redraw_state(stack, model)
        tensors |= {stack.name + name: tensor for name, tensor in own.items()}
        unread = stack.weights.unread()
        if unread:
            raise CheckpointError(f"the state dict of a {kind} holds what our networks have no place for: {unread}")
    assign(model, tensors, f"the state dict of a {kind} does not fit the model")
    return model


def kind_of(state_dict: Mapping[str, Tensor]) -> str:
    """Name of the class in performer-pytorch whose state dict this is, by its keys; tensors may be of any shape.

    Raises CheckpointError where it is none.
    """
    keys = list(state_dict) if isinstance(state_dict, Mapping) else []
    if any(key.startswith("net.blocks.") or "performer.net.blocks." in key for key in keys):
        raise CheckpointError("the state dict is of a reversible Performer, which our networks cannot represent")
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
        f"this is no state dict of performer-pytorch's Performer, PerformerLM or PerformerEncDec ({found}); "
        "give model.state_dict() of one of them"
    )


def _stacks(state_dict: Mapping[str, Tensor], config: ModelConfig, kind: str) -> Iterator[Stack]:
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
    """The count of steps is theirs; the draws to come are ours, since their seed is not in the state dict."""
    state: Tensor = model.state_dict()[f"{stack.name}feature_redraw.state"].clone()
    state[2] = stack.weights.steps_since_redraw
    return state
