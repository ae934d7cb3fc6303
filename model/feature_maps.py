"""Feature maps of linear attention: phi with phi(q) . phi(k) in the place of exp(q . k / sqrt(D)).

A map gives phi(k) as features near 1 and a log scale for each key, so that nothing overflows and no key is
stabilised by another one's maximum: that is how causal attention keeps from seeing the future. A scale of a query
cancels between numerator and denominator, so queries have none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import log

import torch
from torch import Tensor, nn

from model.types import PerformerParams
from yaml_config.registry import Registry


class FeatureMap(nn.Module, ABC):
    """Positive features of queries and keys; every subclass takes `(head_dim, nb_features)`."""

    def __init__(self, head_dim: int, nb_features: int) -> None:
        super().__init__()
        self.head_dim, self.nb_features = head_dim, nb_features

    @abstractmethod
    def query(self, q: Tensor) -> Tensor:
        """Features [..., N, m] of queries [..., N, D], each row up to a positive factor of its own."""

    @abstractmethod
    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features [..., M, m] of keys [..., M, D] and their log scale c [..., M]: phi(k) = exp(c) * features."""


FEATURE_MAPS: Registry[Callable[[int, int], FeatureMap]] = Registry("feature map", "model_factory.feature_maps")


class RandomFeatures(FeatureMap):
    """A map over random projections, rows orthogonal in blocks, in the buffer `projection_matrix` [m, D].

    The buffer is left unset here: `FeatureRedraw` draws those of all layers of a stack together.
    """

    projection_matrix: Tensor

    def __init__(self, head_dim: int, nb_features: int) -> None:
        super().__init__(head_dim, nb_features)
        self.register_buffer("projection_matrix", torch.zeros(nb_features, head_dim))

    def project(self, x: Tensor) -> Tensor:
        """Projections [..., N, m] of x [..., N, D] / D^(1/4), the root of softmax's scale."""
        matrix = self.projection_matrix.to(x.dtype)
        if self.training:
            matrix = matrix.clone()  # a later redraw is in place and must not spoil this graph's backward
        projected: Tensor = (x * self.head_dim**-0.25) @ matrix.T
        return projected


class FavorPlus(RandomFeatures):
    """FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794): exp(w . x - |x|^2 / 2), unbiased for the softmax kernel."""

    def query(self, q: Tensor) -> Tensor:
        """Features of queries; |q|^2 cancels."""
        logits = self.project(q)
        return (logits - logits.amax(-1, keepdim=True).detach()).exp()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features of keys; the maximum is in both parts with opposite signs, so it needs no gradient."""
        logits = self.project(k)
        peak = logits.amax(-1, keepdim=True).detach()
        half_square = k.square().sum(-1) / (2 * self.head_dim**0.5)
        return (logits - peak).exp(), peak.squeeze(-1) - half_square


class ReluFeatures(RandomFeatures):
    """Performer-ReLU (Choromanski et al. 2021, section 4.2): relu(w . x) + 1e-3, which keeps the kernel positive."""

    floor = 1e-3

    def query(self, q: Tensor) -> Tensor:
        """Features of queries."""
        return self.project(q).relu() + self.floor

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features of keys, all of scale 1."""
        return self.query(k), k.new_zeros(k.shape[:-1])


class EluFeatures(FeatureMap):
    """elu(x) + 1 of each coordinate (Katharopoulos et al. 2020, arXiv 2006.16236); `nb_features` is not used."""

    def query(self, q: Tensor) -> Tensor:
        """Features of queries; elu(x) + 1 written without the cancellation that loses it below x = -16."""
        return q.clamp(max=0).exp() + q.relu()

    def key(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features of keys, all of scale 1."""
        return self.query(k), k.new_zeros(k.shape[:-1])


FEATURE_MAPS.add("favor+", FavorPlus)
FEATURE_MAPS.add("relu", ReluFeatures)
FEATURE_MAPS.add("elu", EluFeatures)


def make_feature_map(params: PerformerParams) -> FeatureMap:
    """The map named by `params.feature_map`; by default D ln D features, as in performer-pytorch."""
    nb_features = params.nb_features or max(1, int(params.head_dim * log(params.head_dim)))
    return FEATURE_MAPS.get(params.feature_map)(params.head_dim, nb_features)
