"""Registry of the feature maps of linear attention: the names that `feature_map` takes; imports no torch.

A custom feature map is one file, found when it is imported (`--plugin MODULE`) or through the entry point group
`model_factory.feature_maps`:

    @register_feature_map("cosine")
    def build(head_dim: int, nb_features: int, num_heads: int) -> "FeatureMap":
        from my_package.cosine import CosineFeatures     # imports torch, and only when a model is built

        return CosineFeatures(head_dim, nb_features, num_heads)

`feature_map: cosine` then selects it. A map subclasses `model.attention.feature_maps.FeatureMap`, which documents its methods:
`query` [B, H, N, D] -> features [B, H, N, m], and `key` [B, H, M, D] -> features [B, H, M, m] and their log scale
[B, H, M]. A subclass of `model.attention.feature_maps.RandomFeatures` has its projections drawn and redrawn by the stack.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from model_factory.yaml_config.from_registry import NameOrOptions, name_of, section_type
from model_factory.yaml_config.registry import Registry, import_on_call
from model_factory.yaml_config.strict_model import StrictModel

if TYPE_CHECKING:
    from model.attention.feature_maps import FeatureMap

Builder = TypeVar("Builder", bound=Callable[..., Any])


class FeatureMapEntry(NamedTuple):
    """One feature map: its builder, the type of its own keys (None: no keys), and if `nb_features` sets its width."""

    build: "Callable[..., FeatureMap]"
    config_type: type[StrictModel] | None = None
    takes_nb_features: bool = True


FEATURE_MAPS: Registry[FeatureMapEntry] = Registry("feature map", "model_factory.feature_maps")


def register_feature_map(
    name: str, *, config: type[BaseModel] | None = None, takes_nb_features: bool = True
) -> Callable[[Builder], Builder]:
    """Register the decorated builder, or a subclass of `FeatureMap`, under `name`.

    Arguments:
        name: the value of `feature_map` in a file.
        config: pydantic type of the map's own keys, `feature_map: {type: NAME, ...}`; unknown keys are then errors.
        takes_nb_features: False for a map whose number of features is fixed; `nb_features` beside it is then an error.
    The builder is called as `build(head_dim, nb_features, num_heads)`, where num_heads counts key-value heads, and with
    an instance of `config` as a fourth argument if there is one. Import torch inside it, so that checking a file stays
    fast. Raises ValueError when the name is taken.
    """
    keys = None if config is None else section_type(name, config, StrictModel)
    return FEATURE_MAPS.decorator(name, lambda build: FeatureMapEntry(build, keys, takes_nb_features))


def feature_map_entry(choice: NameOrOptions) -> FeatureMapEntry:
    """Return the entry of a value of `feature_map`; raise UnknownNameError, which lists the known names."""
    return FEATURE_MAPS.get(name_of(choice))


def build_feature_map(choice: NameOrOptions, head_dim: int, nb_features: int, num_heads: int) -> "FeatureMap":
    """Build the map that a value of `feature_map` selects, with its own options if it has any."""
    entry = feature_map_entry(choice)
    options = () if entry.config_type is None else (choice,)
    return entry.build(head_dim, nb_features, num_heads, *options)


register_feature_map("favor+")(import_on_call("model.attention.feature_maps:FavorPlus"))
register_feature_map("favor++")(import_on_call("model.attention.feature_maps:FavorPlusPlus"))
register_feature_map("favor#")(import_on_call("model.attention.feature_maps:FavorSharp"))
register_feature_map("relu")(import_on_call("model.attention.feature_maps:ReluFeatures"))
register_feature_map("elu", takes_nb_features=False)(import_on_call("model.attention.feature_maps:EluFeatures"))
