"""Registry of latent samplers: a custom sampler is drawn from by its name."""

from itertools import pairwise

import pytest
import torch

from model.latent.ddpm import DDPM
from model.latent.networks import MLPSkipNet
from model.latent.part_types import DDIMConfig
from model.latent.registry import LATENT_SAMPLERS, register_latent_sampler
from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.gaussian_schedule import strided_times
from model_factory.diffusion.samplers.base import UnknownSamplerError
from model_factory.experiment.training_types import GenerationConfig

STEPS, LATENT = 20, 6


def test_registered_latent_sampler_takes_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    LATENT_SAMPLERS.names()  # registers the built-in entries, which must outlast the test
    monkeypatch.setattr(LATENT_SAMPLERS, "_entries", dict(LATENT_SAMPLERS._entries))
    times: list[tuple[int, int]] = []

    @register_latent_sampler("mean_only")
    def step(config, diffusion, x_t, x_0, t, s, draw, variance):
        times.append((t, s))
        return diffusion.ancestral_step(x_t, x_0, t, s, None)

    torch.manual_seed(0)
    model = DDPM(MLPSkipNet(LATENT, width=32, num_layers=3), (1e-3, 0.4), STEPS)
    noise = torch.randn(3, LATENT)
    drawn = [model.sample(3, LATENT, sampler="mean_only", steps=4, noise=noise) for _ in range(2)]
    assert torch.equal(*drawn)
    assert times[:4] == list(pairwise(strided_times(STEPS, 4)))
    assert list(LATENT_SAMPLERS)[:2] == ["ancestral", "ddim"]
    with pytest.raises(UnknownSamplerError, match="one of ancestral, ddim, mean_only"):
        model.sample(2, LATENT, sampler="mean")


def test_settings_of_a_latent_sampler_by_mapping() -> None:
    torch.manual_seed(0)
    model = DDPM(MLPSkipNet(LATENT, width=32, num_layers=3), (1e-3, 0.4), STEPS)
    noise = torch.randn(3, LATENT)

    def draw(sampler, **options):
        return model.sample(
            3, LATENT, sampler=sampler, noise=noise, generator=torch.Generator().manual_seed(1), **options
        )

    plain = draw("ddim")
    assert torch.equal(draw({"type": "ddim", "eta": 0.0}), plain)
    assert torch.equal(draw({"type": "ddim", "eta": 0.5}), draw("ddim", eta=0.5))
    assert not torch.equal(draw({"type": "ddim", "eta": 0.5}), plain)
    assert torch.equal(draw({"type": "ancestral"}), draw("ancestral"))
    with pytest.raises(SettingError, match=r"'etta' \(did you mean 'eta'\?\); expected settings of ddim: eta"):
        draw({"type": "ddim", "etta": 0.5})
    with pytest.raises(SettingError, match="eta: got 2"):
        draw({"type": "ddim", "eta": 2.0})


def test_latent_sampler_in_a_file_has_checked_keys() -> None:
    chosen = GenerationConfig.model_validate({"sampler": {"type": "ddim", "eta": 0.25}})
    assert chosen.sampler_choice == {"type": "ddim", "eta": 0.25}
    with pytest.raises(ValueError, match=r"sampler.eta\n.*less than or equal to 1"):
        GenerationConfig.model_validate({"sampler": {"type": "ddim", "eta": 1.5}})


def test_latent_sampler_with_keys_needs_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="'euler' is the name of a sampler of tokens"):
        register_latent_sampler("euler", config=DDIMConfig)
