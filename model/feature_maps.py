"""The feature maps of linear attention by name; `model.feature_base` says what one gives."""

from collections.abc import Callable

from torch import Tensor

from model.chunked.features import Kernel
from model.feature_base import FeatureMap, RandomFeatures
from model.fitted_features import FavorPlusPlus, FavorSharp
from model.types import PerformerParams, default_features
from yaml_config.registry import Registry

__all__ = ["FEATURE_MAPS", "FeatureMap", "RandomFeatures", "make_feature_map"]

FEATURE_MAPS: Registry[Callable[[int, int, int], FeatureMap]] = Registry("feature map", "model_factory.feature_maps")
"""Each is called with head_dim, nb_features and the number of key-value heads."""


class FavorPlus(RandomFeatures):
    """FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794): exp(w . x - |x|^2 / 2), unbiased for the softmax kernel."""

    def kernel(self) -> Kernel:
        """Queries and keys alike."""
        weight = self.scaled_projections()
        return Kernel("exp", weight, weight, None, weight.new_full((1, self.head_dim), 0.5 / self.head_dim**0.5))


class ReluFeatures(RandomFeatures):
    """Performer-ReLU (Choromanski et al. 2021, section 4.2): relu(w . x) + 1e-3, which keeps the kernel positive."""

    def kernel(self) -> Kernel:
        """Queries and keys alike, all of scale 1."""
        weight = self.scaled_projections()
        return Kernel("relu", weight, weight)


class EluFeatures(FeatureMap):
    """elu(x) + 1 of each coordinate (Katharopoulos et al. 2020, arXiv 2006.16236): always D features."""

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__(head_dim, head_dim, num_heads)

    def query(self, q: Tensor) -> Tensor:
        """Features [B, H, N, D]; elu(x) + 1 written without the cancellation that loses it below x = -16."""
        return q.clamp(max=0).exp() + q.relu()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, H, M, D] of keys, all of scale 1."""
        return self.query(k), k.new_zeros(k.shape[:-1])


FEATURE_MAPS.add("favor+", FavorPlus)
FEATURE_MAPS.add("favor++", FavorPlusPlus)
FEATURE_MAPS.add("favor#", FavorSharp)
FEATURE_MAPS.add("relu", ReluFeatures)
FEATURE_MAPS.add("elu", EluFeatures)


def make_feature_map(params: PerformerParams) -> FeatureMap:
    """The map named by `params.feature_map`; by default D ln D features, as in performer-pytorch."""
    nb_features = params.nb_features or default_features(params.head_dim)
    num_heads = params.num_kv_heads or params.num_heads
    return FEATURE_MAPS.get(params.feature_map)(params.head_dim, nb_features, num_heads)
