"""Registry of attention cores: what `attention_type` may name, the built-in ones first; no torch is imported.

A core of your own is one file, found when it is imported (`--plugin MODULE`) or through the entry point group
`model_factory.attention_cores`:

    @register_attention("cosine")
    def build(params: PerformerParams) -> nn.Module:
        from my_package.cosine import CosineCore

        return CosineCore(params.head_dim)

It is called as `core(q, k, v, *, key_mask=None, causal) -> out`, shapes as in `model.attention_core`, and a layer may
then have `attention_type: cosine`. Decoding keeps the keys and values that the core has seen and gives it the newest
query with all of them; a core with a smaller state of its own has a method `decoding_state` (`model.decoding_state`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from yaml_config.registry import Registry

if TYPE_CHECKING:
    from model.types import PerformerParams

Build = Callable[["PerformerParams"], Any]
Builder = TypeVar("Builder", bound=Build)

Direction = Literal["either", "causal", "bidirectional"]
"""What a core's self-attention may see: as its stack asks, only what came before, or always the whole sequence."""


@dataclass(frozen=True)
class CoreEntry:
    """One attention core: how it is built, its direction, and whether it goes through feature maps."""

    build: Build
    direction: Direction
    uses_features: bool


CORES: Registry[CoreEntry] = Registry("attention type", "model_factory.attention_cores")


def register_attention(
    name: str, *, direction: Direction = "either", uses_features: bool = False
) -> Callable[[Builder], Builder]:
    """Register the decorated builder, `params -> nn.Module`, under `name`; a core's class will do as one.

    `params.attention_type` is the one name of the layer that is built. Cross-attention builds and calls a core with
    `causal=False`, whatever its direction. `nb_features` is accepted only beside a core that `uses_features`.
    Raises ValueError when the name is taken.
    """

    def register(build: Builder) -> Builder:
        CORES.add(name, CoreEntry(build, direction, uses_features))
        return build

    return register


def core_entry(name: str) -> CoreEntry:
    """Entry of a registered core; raises UnknownNameError, which names the nearest and all others."""
    return CORES.get(name)


def first_of_direction(params: "PerformerParams", direction: Direction) -> str | None:
    """Name of the first layer's core that has this direction, or None."""
    return next((name for name in params.attention_types if core_entry(name).direction == direction), None)


def _built_in(params: "PerformerParams") -> Any:
    from model.attention_core import make_core

    return make_core(params)


register_attention("softmax")(_built_in)
register_attention("linear", direction="bidirectional", uses_features=True)(_built_in)
register_attention("causal_linear", direction="causal", uses_features=True)(_built_in)
