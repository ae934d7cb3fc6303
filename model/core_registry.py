"""Registry of attention cores: the names that `attention_type` takes, the built-in ones first; imports no torch.

A custom core is one file, found when it is imported (`--plugin MODULE`) or through the entry point group
`model_factory.attention_cores`:

    @register_attention("cosine")
    def build(params: PerformerParams) -> nn.Module:
        from my_package.cosine import CosineCore

        return CosineCore(params.head_dim)

`attention_type: cosine` then selects it. The core is called as `core(q, k, v, *, key_mask=None, causal) -> out`, with
the shapes of `model.attention.cores`. While decoding, all earlier keys and values are cached and passed to it with the
newest query; a core with a smaller state defines a method `decoding_state` (`model.attention.decoding_state`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel

from model_factory.yaml_config.from_registry import name_of, section_type
from model_factory.yaml_config.registry import Registry, import_on_call
from model_factory.yaml_config.strict_model import StrictModel

if TYPE_CHECKING:
    from model.types import PerformerParams

Builder = TypeVar("Builder", bound=Callable[..., Any])

Direction = Literal["either", "causal", "bidirectional"]
"""Tokens that a core's self-attention sees: as its stack asks, only earlier ones, or always the whole sequence."""


class CoreEntry(NamedTuple):
    """One attention core: its builder, direction, use of feature maps, and the type of its keys (None: no keys)."""

    build: Callable[..., Any]
    direction: Direction
    uses_features: bool
    config_type: type[StrictModel] | None = None


CORES: Registry[CoreEntry] = Registry("attention type", "model_factory.attention_cores")


def register_attention(
    name: str,
    *,
    config: type[BaseModel] | None = None,
    direction: Direction = "either",
    uses_features: bool = False,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder, or the class of a core, under `name`.

    Arguments:
        name: a value of `attention_type` in a file.
        config: pydantic type of the core's own keys, `attention_type: {type: NAME, ...}`; unknown keys are then errors.
        direction: tokens that its self-attention sees. Cross-attention calls every core with `causal=False`.
        uses_features: True if the core uses `nb_features`, which is otherwise an error beside it.
    The builder is called as `build(params) -> nn.Module`, and as `build(params, options)` with an instance of `config` if
    there is one; `params.attention_type` is that of the layer alone. Raises ValueError when the name is taken.
    """
    keys = None if config is None else section_type(name, config, StrictModel)
    return CORES.decorator(name, lambda build: CoreEntry(build, direction, uses_features, keys))


def core_entry(name: str) -> CoreEntry:
    """Return the entry of a core; raise UnknownNameError, which lists the known names."""
    return CORES.get(name)


def build_core(params: "PerformerParams") -> Any:
    """Build the core of a layer's `params` (`PerformerParams.of_layer`), with its own options if it has any."""
    choice = params.attention_choices[0]
    entry = core_entry(name_of(choice))
    return entry.build(params) if entry.config_type is None else entry.build(params, choice)


def first_of_direction(params: "PerformerParams", direction: Direction) -> str | None:
    """Return the name of the first layer's core that has this direction, or None."""
    return next((name for name in params.attention_types if core_entry(name).direction == direction), None)


_make_core = import_on_call("model.attention.cores:make_core")
register_attention("softmax")(_make_core)
register_attention("linear", direction="bidirectional", uses_features=True)(_make_core)
register_attention("causal_linear", direction="causal", uses_features=True)(_make_core)
