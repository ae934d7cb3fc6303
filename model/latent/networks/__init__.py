"""Denoisers of latent vectors: `network(x, t, z_sem=None)`, x float [B, latent_dim], t in [0, 1], to the shape of x.

They import no schedule and no text code, and rows do not interact; `model.latent.ddpm` defines the meaning of t.
"""

from model.latent.networks.linear import LinearModel, ResidualLinear
from model.latent.networks.mlp_skip import MLPSkipNet
from model.latent.networks.self_conditioned import SelfConditioned
from model.latent.networks.tokens import PerformerNet, TransformerNet

__all__ = ["LinearModel", "MLPSkipNet", "PerformerNet", "ResidualLinear", "SelfConditioned", "TransformerNet"]
