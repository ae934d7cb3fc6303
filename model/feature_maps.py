"""Feature maps of linear attention that are not fitted to the data, and the factory of all of them."""

from torch import Tensor

from model.chunked.features import Kernel
from model.feature_base import FeatureMap, RandomFeatures
from model.feature_registry import build_feature_map
from model.types import PerformerParams, default_features

__all__ = ["FeatureMap", "RandomFeatures", "make_feature_map"]


class FavorPlus(RandomFeatures):
    """FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794): exp(w . x - |x|^2 / 2), unbiased for the softmax kernel."""

    def kernel(self) -> Kernel:
        """Return one matrix for queries and keys, and the factor of |k|^2."""
        weight = self.scaled_projections()
        return Kernel("exp", weight, weight, None, weight.new_full((1, self.head_dim), 0.5 / self.head_dim**0.5))


class ReluFeatures(RandomFeatures):
    """Performer-ReLU (Choromanski et al. 2021, section 4.2): relu(w . x) + 1e-3, which keeps the kernel positive."""

    def kernel(self) -> Kernel:
        """Return one matrix for queries and keys, all of scale 1."""
        weight = self.scaled_projections()
        return Kernel("relu", weight, weight)


class EluFeatures(FeatureMap):
    """elu(x) + 1 of each coordinate (Katharopoulos et al. 2020, arXiv 2006.16236): always D features."""

    def __init__(self, head_dim: int, nb_features: int, num_heads: int = 1) -> None:
        super().__init__(head_dim, head_dim, num_heads)

    def query(self, q: Tensor) -> Tensor:
        """Return features [B, H, N, D]; this form of elu(x) + 1 avoids cancellation, which gives 0 below x = -16."""
        return q.clamp(max=0).exp() + q.relu()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, H, M, D] of keys, all of scale 1."""
        return self.query(k), k.new_zeros(k.shape[:-1])


def make_feature_map(params: PerformerParams) -> FeatureMap:
    """Build the map that `params.feature_map` selects; by default D ln D features, as in performer-pytorch."""
    nb_features = params.nb_features or default_features(params.head_dim)
    num_heads = params.num_kv_heads or params.num_heads
    return build_feature_map(params.feature_map, params.head_dim, nb_features, num_heads)
