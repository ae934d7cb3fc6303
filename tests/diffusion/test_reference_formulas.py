"""Schedules, draws and network outputs against formulas implemented a second time."""

from math import cos, pi

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.categorical import invert_distribution
from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.discrete_time import DiscreteNoise, alpha_table
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.base import create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser, keep_top_p
from model_factory.diffusion.samplers.state import start_state
from model_factory.diffusion.samplers.unmasking import sigma_at_masked_share

GRAPH = AbsorbingGraph(4)


def kept(beta: list[float]) -> list[float]:
    alpha = [1.0]
    for share in beta:
        alpha.append(alpha[-1] * (1 - share))
    return alpha


@pytest.mark.parametrize("steps", [2, 9, 400])
def test_discrete_alpha_matches_papers_at_every_step(steps: int) -> None:
    def even(low: float, high: float) -> list[float]:
        return [low + (high - low) * i / (steps - 1) for i in range(steps)]

    high = min(20 / steps, 0.999)  # the betas of 1000 steps, scaled by 1000 / steps
    given = {"beta_start": 0.01, "beta_end": 0.3}
    whole = [cos((i / steps + 0.008) / 1.008 * pi / 2) ** 2 for i in range(steps + 1)]
    cosine = kept([min(1 - whole[i + 1] / whole[i], 0.999) for i in range(steps)])
    roots = even(0.01**0.5, 0.3**0.5)
    for table, alpha in (
        (alpha_table("linear", steps), kept(even(0.1 / steps, high))),
        (alpha_table("quadratic", steps), kept([root**2 for root in even((0.1 / steps) ** 0.5, high**0.5)])),
        (alpha_table("linear", steps, **given), kept(even(0.01, 0.3))),
        (DiscreteNoise(steps, "linear", **given).table, kept(even(0.01, 0.3))),
        (DiscreteNoise(steps, "quadratic", **given).table, kept([root**2 for root in roots])),
        (DiscreteNoise(steps, "cosine").table, cosine),
        (DiscreteNoise(steps).table, [1 - i / steps for i in range(steps + 1)]),
    ):
        torch.testing.assert_close(table, torch.tensor(alpha, dtype=torch.float64), rtol=1e-11, atol=1e-15)


def test_discrete_beta_is_below_one() -> None:
    for name in ("beta_start", "beta_end"):
        DiscreteNoise(3, "linear", **{name: 0.999})
        for beta in (0.0, 0.9991, -0.1):
            with pytest.raises(SettingError, match=f"{name}: got {beta}"):
                DiscreteNoise(3, "linear", **{name: beta})


@pytest.mark.parametrize("size", [3, 1024, 1025, 5000])
@pytest.mark.parametrize("rare", [1e-7, 1e-10])
def test_categorical_rare_last_token_is_exact(size: int, rare: float) -> None:
    """Sums near 1 have float64 precision too: float32 resolves nothing below 6e-8 there."""
    probs = torch.full((4, size), (1 - rare) / (size - 1), dtype=torch.float64)
    probs[:, -1] = rare
    uniforms = 1 - torch.tensor([0.25, 0.9, 1.1, 3.0], dtype=torch.float64) * rare
    assert (invert_distribution(probs, uniforms) == size - 1).tolist() == [True, True, False, False]


def test_categorical_float32_inputs_are_exact() -> None:
    probs = torch.tensor([[1, 2, 1]], dtype=torch.float32).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.25, 0.74, 0.75], dtype=torch.float32)
    assert invert_distribution(probs, uniforms).tolist() == [0, 1, 1, 2]
    halves = torch.tensor([0.5, 0.75], dtype=torch.float32)
    assert invert_distribution(torch.ones(2, 2000), halves).tolist() == [1000, 1500]


class Chosen(RowGenerators):
    """RowGenerators that return given uniforms."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(torch.zeros(len(values), dtype=torch.int64))
        self.values = values

    def rand(self, *shape: int) -> Tensor:
        return self.values.reshape(-1, *shape)


def zeros(x_t: Tensor, sigma: Tensor, **_: Tensor) -> Tensor:
    return torch.zeros(*x_t.shape, 5)


def test_first_hitting_levels_are_uniform_below_1_minus_alpha() -> None:
    """1 - alpha at the unmasking is uniform below 1 - alpha(1), also for a large alpha(1)."""
    schedule = LogLinearNoise(0.4)
    denoiser = Denoiser(zeros, X0Parameterisation(GRAPH))
    sampler = create_sampler("first_hitting", DiffusionProcess(GRAPH, schedule), denoiser, 3)
    draws = torch.tensor([[0.0, 0.25, 0.5, 0.999]], dtype=torch.float64)
    state = sampler.begin(start_state(GRAPH, 1, 4, generators=Chosen(draws)))
    torch.testing.assert_close(-torch.expm1(-state.cache["hit_sigma"]), 0.6 * (1 - draws))
    share = torch.tensor([0.0, 0.25, 1.0])
    level = sigma_at_masked_share(sampler, share)
    assert level.dtype == torch.float64
    torch.testing.assert_close(-torch.expm1(-level), 0.6 * share.double())


def test_guidance_uses_null_condition() -> None:
    """One null condition for all rows, or one for each; used only in calls without the condition."""
    asked: list[Tensor | None] = []

    def network(x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        asked.append(cond)
        answer = torch.zeros(*x_t.shape, 5)
        return answer if cond is None else answer + cond.reshape(-1, 1, 1)

    x_t, sigma = torch.full((2, 3), 4), torch.ones(2)
    cond, null = torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [7.0]])
    for given, one in ((null, null), (null[:1], null[:1]), (None, torch.zeros(1, 1))):
        denoiser = Denoiser(network, X0Parameterisation(GRAPH), cond=cond, null_cond=given, guidance=3.0)
        expected = (one + 3 * (cond - one))[:, :, None].expand(2, 3, 5)
        torch.testing.assert_close(denoiser.output(x_t, sigma), expected)
        for rows in ([1], [1, 0]):
            part = denoiser.output(x_t[rows], sigma[rows], torch.tensor(rows))
            torch.testing.assert_close(part, expected[rows])
        torch.testing.assert_close(denoiser.select(slice(1, 2)).output(x_t[1:], sigma[1:]), expected[1:])
        plain = Denoiser(network, X0Parameterisation(GRAPH), cond=cond, null_cond=given, guidance=0.0)
        torch.testing.assert_close(plain.output(x_t, sigma)[:, 0, :1], one.expand(2, 1))
    asked.clear()
    Denoiser(network, X0Parameterisation(GRAPH), null_cond=null).output(x_t, sigma)
    assert asked == [None]


def test_top_p_keeps_earlier_of_ties() -> None:
    probs = torch.full((64,), 1 / 64, dtype=torch.float64)
    assert keep_top_p(probs.log(), 0.25).exp().nonzero()[:, 0].tolist() == list(range(16))
    Denoiser(zeros, X0Parameterisation(GRAPH), temperature=1e6, top_p=1.0, guidance=-1e6)
    for wrong in ({"temperature": 1e6 + 1}, {"top_p": 0.0}, {"top_p": 1.1}, {"guidance": 1e6 + 1}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            Denoiser(zeros, X0Parameterisation(GRAPH), **wrong)


def test_mask_is_passed_and_temperature_0_keeps_maximum() -> None:
    """With a condition and without; temperature 0 keeps the first maximum of each position."""
    asked: list[Tensor | None] = []

    def network(x_t: Tensor, sigma: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        asked.append(mask)
        answer = torch.arange(5.0).expand(*x_t.shape, 5).clone()
        answer[:, 0] = torch.tensor([2.0, 7.0, 7.0, 1.0, 0.0])
        return answer

    mask = torch.tensor([[True, True], [True, False]])
    x_t, sigma = torch.full((2, 2), 4), torch.ones(2)
    for settings in ({}, {"cond": torch.zeros(2, 1)}, {"cond": torch.zeros(2, 1), "guidance": 2.0}):
        denoiser = Denoiser(network, X0Parameterisation(GRAPH), mask=mask, temperature=0.0, **settings)
        asked.clear()
        probs = denoiser.log_x0(x_t, sigma).exp()
        assert probs.argmax(-1).tolist() == [[1, 3], [1, 3]]
        assert torch.equal(probs.sum(-1), torch.ones(2, 2).double())
        denoiser.output(x_t[1:], sigma[1:], torch.tensor([1]))
        assert [one.tolist() for one in asked] == [mask.tolist()] * denoiser.calls + [[[True, False]]] * denoiser.calls
        assert denoiser.block_size is None
