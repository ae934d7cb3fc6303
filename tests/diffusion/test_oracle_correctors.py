"""Samplers with settings: exact invariants of steps, convergence of their distributions, and draws against these."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import DiffusionInputError
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.noise_schedule import NoiseSchedule
from model_factory.diffusion.samplers.base import Sampler, create_sampler, samplers_for
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.remasking import RemaskingSampler
from model_factory.diffusion.samplers.sampling import sample
from tests.oracles.diffusion_noises import GRAPHS, SCHEDULES, noisy_toy, process_of
from tests.oracles.diffusion_propagation import kernel, oracle_sampler, sampler_distribution, state_of
from tests.oracles.diffusion_toy import LENGTH, Toy

Choice = dict[str, object]


def place_marginals(probs: Tensor, dim: int) -> Tensor:
    """Return the marginals [3, dim] of a distribution [dim^3]."""
    whole = probs.reshape(dim, dim, dim)
    return torch.stack([whole.sum((1, 2)), whole.sum((0, 2)), whole.sum((0, 1))])


def marginal_error(toy: Toy, sampler: Sampler, step: int) -> float:
    """Return the distance of token marginals after a step from the exact p_t to those of p_s."""
    t = torch.full((len(toy.states),), sampler.time(step), dtype=torch.float64)
    state = replace(state_of(toy.states), t=t, step=step)
    sigma, sigma_next = (level[0] for level in sampler.levels(state))
    now, later = (toy.marginal(level).flatten() for level in (sigma, sigma_next))
    reached = torch.where(now[:, None] > 0, now[:, None] * kernel(sampler, state), 0.0).sum(0)
    return float((place_marginals(reached, toy.dim) - place_marginals(later, toy.dim)).abs().max())


@pytest.mark.parametrize("kind", list(GRAPHS))
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kappa", [0.0, 0.6, 1.0])
def test_predictor_corrector_keeps_token_marginals(kind: str, schedule: NoiseSchedule, kappa: float) -> None:
    toy = noisy_toy(kind)
    choice = {"type": "predictor_corrector", "kappa": kappa, "t_on": 1.0, "t_off": 0.0}
    sampler = oracle_sampler(toy, process_of(kind, schedule), choice, 4)
    for step in range(4):
        assert marginal_error(toy, sampler, step) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("settings", [{}, {"eta_cap": 0.4}, {"eta_cap": 1.0}, {"eta_cap": 1.0, "eta_rescale": 0.3}])
def test_remasking_keeps_token_marginals(schedule: NoiseSchedule, settings: Choice) -> None:
    toy = noisy_toy("absorbing")
    sampler = oracle_sampler(toy, process_of("absorbing", schedule), {"type": "remasking", **settings}, 4)
    for step in range(4):
        assert marginal_error(toy, sampler, step) < 1e-12


def test_corrector_with_posterior_mean_is_detected() -> None:
    """The corrector multiplies the leave-one-out distribution by q(x_t | x_0); a network that includes it is inexact."""
    toy, process = noisy_toy("uniform"), process_of("uniform")
    reading = X0Parameterisation(process.graph)
    choice = {"type": "predictor_corrector", "kappa": 0.0, "t_on": 1.0, "t_off": 0.0}
    sampler = create_sampler(choice, process, Denoiser(toy.posterior_mean_oracle, reading), 4)
    assert marginal_error(toy, sampler, 1) > 5e-3


@pytest.mark.parametrize("step", [0, 2, 3])
@pytest.mark.parametrize("settings", [{"eta_cap": 0.1}, {"eta_cap": 1.0, "eta_rescale": 0.3}])
def test_remasking_is_a_predictor_corrector(step: int, settings: Choice) -> None:
    """kappa = 1 - rho / (1 - alpha_s), and no correction is ancestral, as in Deschenaux et al."""
    toy, process = noisy_toy("absorbing"), process_of("absorbing")
    remasking = oracle_sampler(toy, process, {"type": "remasking", **settings}, 4)
    assert isinstance(remasking, RemaskingSampler)
    t = torch.full((len(toy.states),), 1 - step / 4, dtype=torch.float64)
    state = replace(state_of(toy.states), t=t, step=step)
    sigma, sigma_next = (level[0] for level in remasking.levels(state))
    rho = remasking.remask_probability(sigma, sigma_next)
    kappa = float(1 - rho / -torch.expm1(-sigma_next)) if float(sigma_next) > 0 else 1.0
    psi = {"type": "predictor_corrector", "kappa": kappa, "t_on": 1.0, "t_off": 0.0}
    expected = kernel(oracle_sampler(toy, process, psi, 4), state)
    torch.testing.assert_close(kernel(remasking, state), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("absorbing", {"type": "predictor_corrector", "kappa": 1.0}),
        ("uniform", {"type": "predictor_corrector", "kappa": 1.0}),
        ("absorbing", {"type": "remasking", "eta_cap": 0.0}),
        ("absorbing", {"type": "remasking", "eta_rescale": 0.0}),
    ],
)
def test_without_correction_samples_are_ancestral(kind: str, choice: Choice) -> None:
    toy, process = noisy_toy(kind), process_of(kind)
    tokens = [
        sample(process, oracle_sampler(toy, process, name, 9).denoiser, 64, LENGTH, steps=9, sampler=name, generator=g)
        for name, g in ((name, torch.Generator().manual_seed(0)) for name in ("ancestral", choice))
    ]
    assert torch.equal(tokens[0].tokens, tokens[1].tokens)


def variation(kind: str, choice: str | Choice, steps: int, seed: int = 0) -> float:
    toy = noisy_toy(kind, seed)
    return toy.total_variation(sampler_distribution(toy, oracle_sampler(toy, process_of(kind), choice, steps)))


@pytest.mark.parametrize("settings", [{"eta_cap": 0.3}, {"eta_cap": 1.0, "eta_rescale": 1.0}])
def test_remasking_converges_as_1_over_sqrt_steps(settings: Choice) -> None:
    coarse, fine = (variation("absorbing", {"type": "remasking", **settings}, steps) for steps in (64, 1024))
    assert 3.5 < coarse / fine < 4.5


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_correction_converges_only_if_it_runs_to_time_zero(kind: str) -> None:
    """The error of correction at t_off, of the order of 1 - kappa, is not reduced by later steps."""

    def distances(t_off: float) -> tuple[float, float]:
        choice: Choice = {"type": "predictor_corrector", "kappa": 0.5, "t_off": t_off}
        return variation(kind, choice, 256), variation(kind, choice, 1024)

    coarse, fine = distances(0.1)
    assert 0.75 * coarse < fine
    assert fine > 5e-3
    coarse, fine = distances(0.0)
    assert fine < 0.65 * coarse


STRONG: list[Choice] = [
    {"type": "entropy_bounded", "gamma": 1.0},
    {"type": "remasking", "eta_cap": 0.5},
    {"type": "predictor_corrector", "kappa": 0.2, "t_on": 1.0, "t_off": 0.0},
]
CASES = [(kind, name) for kind in ("absorbing", "uniform") for name in samplers_for(GRAPHS[kind])]
CASES += [("absorbing", choice) for choice in STRONG] + [("uniform", STRONG[-1])]


@pytest.mark.parametrize(("kind", "choice"), CASES)
def test_samples_follow_propagated_kernels(kind: str, choice: str | Choice) -> None:
    """Chi-square test over all sequences, 26 degrees of freedom; samples do not depend on batch_size."""
    toy, process, count = noisy_toy(kind, 3), process_of(kind), 20_000
    sampler = oracle_sampler(toy, process, choice, 4)
    settings = {"steps": 4, "sampler": choice}
    drawn = sample(process, sampler.denoiser, count, LENGTH, generator=torch.Generator().manual_seed(0), **settings)
    index = (drawn.tokens * torch.tensor([toy.dim**2, toy.dim, 1])).sum(1)
    expected = sampler_distribution(toy, sampler) * count
    counted = torch.bincount(index, minlength=toy.dim**LENGTH)
    possible = expected > 1e-9
    assert bool((counted[~possible] == 0).all())
    assert float(((counted - expected) ** 2 / expected)[possible].sum()) < 26 + 4 * 52**0.5
    parts = sample(
        process, sampler.denoiser, 50, LENGTH, generator=torch.Generator().manual_seed(0), batch_size=7, **settings
    )
    whole = sample(process, sampler.denoiser, 50, LENGTH, generator=torch.Generator().manual_seed(0), **settings)
    assert torch.equal(parts.tokens, whole.tokens)
    assert torch.equal(parts.network_calls, whole.network_calls)


@pytest.mark.parametrize("choice", STRONG[:2])
def test_remasking_calls_network_only_for_unmasking_rows(choice: Choice) -> None:
    toy, process = noisy_toy("absorbing"), process_of("absorbing")
    rows = 0

    def counting(x_t: Tensor, sigma: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x_t)
        return toy.oracle(x_t, sigma)

    denoiser = Denoiser(counting, X0Parameterisation(process.graph))
    state = sample(process, denoiser, 40, LENGTH, steps=12, sampler=choice, generator=torch.Generator().manual_seed(0))
    assert rows == int(state.network_calls.sum())
    assert int(state.network_calls.max()) <= (LENGTH if choice["type"] == "entropy_bounded" else 12)
    assert rows < 40 * 12


BAD: list[tuple[Mapping[str, object], str]] = [
    ({"type": "entropy_bounded", "gamma": -0.1}, r"gamma: got -0.1; expected greater than or equal to 0"),
    ({"type": "entropy_bounded", "gama": 0.1}, r"sampler: got 'gama' \(did you mean 'gamma'\?\); expected settings of"),
    ({"type": "remasking", "eta_cap": 1.5}, "eta_cap: got 1.5"),
    ({"type": "remasking", "eta_rescale": "a"}, "eta_rescale: got 'a'"),
    ({"type": "predictor_corrector", "kappa": 2}, "kappa: got 2"),
    (
        {"type": "predictor_corrector", "t_on": 0.3, "t_off": 0.4},
        r"t_off: got 0.4; expected settings that fit together: t_off 0.4 must not be above t_on 0.3",
    ),
    ({"type": "ancestral", "gamma": 0.1}, "sampler: got 'gamma'; expected no settings: ancestral has none"),
    ({"gamma": 0.1}, "sampler: got None; expected one of"),
    ({"type": "remaskin"}, "did you mean 'remasking'"),
]


@pytest.mark.parametrize(("choice", "message"), BAD)
def test_create_sampler_names_wrong_settings(choice: Mapping[str, object], message: str) -> None:
    process = process_of("absorbing")
    toy = noisy_toy("absorbing")
    with pytest.raises(DiffusionInputError, match=message):
        create_sampler(choice, process, Denoiser(toy.oracle, X0Parameterisation(process.graph)), 3)
