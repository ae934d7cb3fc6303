"""The entropy-bounded sampler: bound, number of calls, and sigma passed to the network."""

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.sampling import sample
from tests.oracles.diffusion_noises import GRAPHS, NoisyToy, noisy_toy, process_of
from tests.oracles.diffusion_propagation import divergence, oracle_sampler, sampler_distribution
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 0.9, 1.1, 3.0])
def test_entropy_bounded_keeps_its_bound(gamma: float) -> None:
    """With three tokens at most one call unmasks several, so KL(data, samples) <= gamma and TV <= sqrt(gamma / 2)."""
    worst = 0.0
    for seed in range(8):
        toy = noisy_toy("absorbing", seed)
        probs = sampler_distribution(
            toy, oracle_sampler(toy, process_of("absorbing"), {"type": "entropy_bounded", "gamma": gamma}, 1)
        )
        worst = max(worst, divergence(toy, probs))
        assert float(probs.sum()) == pytest.approx(1.0, abs=1e-12)
        assert divergence(toy, probs) <= gamma + 1e-12
        assert toy.total_variation(probs) <= (gamma / 2) ** 0.5 + 1e-12
    assert worst > 1e-2 or gamma <= 0.7


@pytest.mark.parametrize("frozen", [[True, False, False], [True, False, True]])
def test_entropy_bounded_conditions_exactly_on_prompts(frozen: list[bool]) -> None:
    toy, kept = noisy_toy("absorbing"), torch.tensor(frozen)
    matches = (toy.data[:, kept] == 1).all(1).reshape(toy.joint.shape)
    condition = toy.joint * matches
    sampler = oracle_sampler(toy, process_of("absorbing"), {"type": "entropy_bounded", "gamma": 0.0}, 1)
    target = Toy(condition / condition.sum(), absorbing=True)
    assert target.total_variation(sampler_distribution(toy, sampler, kept)) < 1e-12


def test_entropy_bounded_unmasks_certain_tokens_together() -> None:
    """For sequences of one repeated token, the first call draws it, the second all other positions, which are certain."""
    joint = torch.zeros((VOCABULARY,) * LENGTH, dtype=torch.float64)
    for token, chance in enumerate([0.5, 0.3, 0.2]):
        joint[token, token, token] = chance
    toy, process = NoisyToy(joint, True, GRAPHS["absorbing"]), process_of("absorbing")
    state = sample(
        process,
        Denoiser(toy.oracle, X0Parameterisation(process.graph)),
        2000,
        LENGTH,
        sampler={"type": "entropy_bounded", "gamma": 0.0},
    )
    assert bool((state.tokens == state.tokens[:, :1]).all())
    assert state.network_calls.tolist() == [2] * 2000
    shares = torch.bincount(state.tokens[:, 0], minlength=VOCABULARY) / 2000
    torch.testing.assert_close(shares.double(), joint.sum((1, 2)), atol=0.05, rtol=0)


def test_entropy_bounded_passes_sigma_of_mask_share() -> None:
    process, passed = process_of("absorbing"), []
    toy = noisy_toy("absorbing")

    def listening(x_t: Tensor, sigma: Tensor) -> Tensor:
        passed.append((int((x_t == VOCABULARY).sum()), float(sigma)))
        return toy.oracle(x_t, sigma)

    denoiser = Denoiser(listening, X0Parameterisation(process.graph))
    state = sample(process, denoiser, 1, LENGTH, sampler={"type": "entropy_bounded", "gamma": 0.0})
    assert float(state.t) == 0
    most = 1 - float(process.schedule.alpha(1.0))
    for masks, sigma in passed:
        assert 1 - torch.tensor(-sigma, dtype=torch.float64).exp().item() == pytest.approx(
            most * masks / LENGTH, rel=1e-12
        )
