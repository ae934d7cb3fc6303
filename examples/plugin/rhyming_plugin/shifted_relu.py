"""Feature map `shifted_relu` of linear attention: relu(x) + shift of each coordinate."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_feature_map


class ShiftedReluConfig(StrictModel):
    """Keys of `feature_map: {type: shifted_relu, ...}`."""

    shift: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Added to each feature, so that every weight is positive. [1]"""


@register_feature_map("shifted_relu", config=ShiftedReluConfig, takes_nb_features=False)
def build(head_dim: int, nb_features: int, num_heads: int, options: ShiftedReluConfig) -> Any:
    """Build the map, which has as many features as a head has coordinates."""
    from model_factory import FeatureMap

    class ShiftedRelu(FeatureMap):
        def query(self, q: Any) -> Any:
            return q.relu() + options.shift  # [B, H, N, D]

        def key(self, k: Any) -> Any:
            return self.query(k), k.new_zeros(k.shape[:-1])  # features, and their log scale [B, H, M]

    return ShiftedRelu(head_dim, head_dim, num_heads)
