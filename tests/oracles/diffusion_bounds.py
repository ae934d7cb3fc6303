"""Bounds on toys by exact sums over all sequences and Gauss-Legendre quadrature over time."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from model_factory.diffusion.objectives.losses import Objective
from model_factory.diffusion.processes.noise_schedule import NoiseSchedule
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy

Denoise = Callable[[Tensor, Tensor], Tensor]


def quadrature(points: int, power: int = 1) -> Iterator[tuple[float, float]]:
    """Yield nodes t in (0, 1) and weights; t = u^power concentrates the nodes near 0, where integrands have log t."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        yield float(node**power), float(weight * power * node ** (power - 1))


def quadrature_at_both_ends(points: int, power: int) -> Iterator[tuple[float, float]]:
    """Yield nodes dense at both ends, t = u^power / (u^power + (1 - u)^power), for integrands with a root at 1 too."""
    for u, weight in quadrature(points):
        rising, falling = u**power, (1 - u) ** power
        slope = power * (u * (1 - u)) ** (power - 1) / (rising + falling) ** 2
        yield rising / (rising + falling), weight * slope


def pairs(toy: Toy, sigma: Tensor, frozen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices of x_0 and x_t, and p(x_0) q_sigma(x_t | x_0), for all possible pairs; frozen places are clean."""
    noised, kept = toy.kernel(sigma)[:VOCABULARY], torch.eye(VOCABULARY, toy.dim, dtype=torch.float64)
    places = [kept if frozen is not None and bool(frozen[place]) else noised for place in range(LENGTH)]
    joint = torch.einsum("abc,ai,bj,ck->abcijk", toy.joint, *places).reshape(VOCABULARY**LENGTH, -1)
    clean, noisy = (joint > 0).nonzero(as_tuple=True)
    return clean, noisy, joint[clean, noisy]


def expected(
    toy: Toy,
    sigma: Tensor,
    denoise: Denoise,
    part: Callable[[Tensor, Tensor, Tensor], Tensor],
    frozen: Tensor | None = None,
) -> float:
    """Return E[sum over free positions of part(output, x_t, x_0)] over x_0 and the noise at sigma."""
    clean, noisy, probability = pairs(toy, sigma, frozen)
    output = denoise(toy.states, sigma.expand(len(toy.states)))[noisy]
    values = part(output, toy.states[noisy], toy.data[clean])
    values = values if frozen is None else values.masked_fill(frozen, 0.0)
    return float((probability[:, None] * values).sum())


def exact_bound(
    toy: Toy,
    objective: Objective,
    denoise: Denoise,
    times: Iterator[tuple[float, float]],
    corruption: NoiseSchedule | None = None,
    frozen: Tensor | None = None,
) -> tuple[float, float, float]:
    """Return diffusion, prior and reconstruction parts in nats per sequence, of the free places given the frozen, bool [3].

    `corruption` is the schedule that noises the tokens, by default the objective's; a different one is an error that
    tests must detect.
    """
    schedule, noised = objective.schedule, corruption or objective.schedule
    diffusion = 0.0
    for t, weight in times:
        level = schedule.sigma(t)

        def at_t(output: Tensor, x_t: Tensor, x_0: Tensor, t: float = t) -> Tensor:
            return objective.diffusion(output, x_t, x_0, torch.full((len(x_t),), t, dtype=torch.float64))

        def denoise_at_level(x_t: Tensor, _: Tensor, level: Tensor = level) -> Tensor:
            return denoise(x_t, level.expand(len(x_t)))

        diffusion += weight * expected(toy, noised.sigma(t), denoise_at_level, at_t, frozen)
    prior = _prior(toy, objective, denoise, frozen)
    reconstruction = 0.0
    if objective.needs_start:
        reconstruction = expected(toy, noised.sigma(0.0), denoise, objective.reconstruction, frozen)
    return diffusion, prior, reconstruction


def _prior(toy: Toy, objective: Objective, denoise: Denoise, frozen: Tensor | None) -> float:
    output, kept = None, torch.zeros(LENGTH, dtype=torch.bool) if frozen is None else frozen
    if objective.needs_limit:
        masks = torch.where(kept, toy.data, VOCABULARY)
        output = denoise(masks, objective.schedule.sigma(torch.ones(len(masks))))
    values = objective.prior(toy.data, output).masked_fill(kept, 0.0)
    return float((toy.joint.flatten()[:, None] * values).sum())
