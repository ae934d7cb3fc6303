"""Registry of latent samplers: a custom sampler is drawn from by its name."""

from itertools import pairwise

import pytest
import torch

from model.latent.ddpm import DDPM
from model.latent.networks import MLPSkipNet
from model.latent.registry import LATENT_SAMPLERS, register_latent_sampler
from model.transformer.inputs import InputError
from model_factory.diffusion.gaussian_schedule import strided_times

STEPS, LATENT = 20, 6


def test_registered_latent_sampler_takes_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    LATENT_SAMPLERS.names()  # registers the built-in entries, which must outlast the test
    monkeypatch.setattr(LATENT_SAMPLERS, "_entries", dict(LATENT_SAMPLERS._entries))
    times: list[tuple[int, int]] = []

    @register_latent_sampler("mean_only")
    def step(diffusion, x_t, x_0, t, s, draw, eta, variance):
        times.append((t, s))
        return diffusion.ancestral_step(x_t, x_0, t, s, None)

    torch.manual_seed(0)
    model = DDPM(MLPSkipNet(LATENT, width=32, num_layers=3), (1e-3, 0.4), STEPS)
    noise = torch.randn(3, LATENT)
    drawn = [model.sample(3, LATENT, sampler="mean_only", steps=4, noise=noise) for _ in range(2)]
    assert torch.equal(*drawn)
    assert times[:4] == list(pairwise(strided_times(STEPS, 4)))
    assert list(LATENT_SAMPLERS)[:2] == ["ancestral", "ddim"]
    with pytest.raises(InputError, match="use 'ancestral' or 'ddim' or 'mean_only'"):
        model.sample(2, LATENT, sampler="mean")
