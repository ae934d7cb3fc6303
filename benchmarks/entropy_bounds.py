"""Exact network calls and distances of the entropy-bounded sampler by `gamma`, with an oracle as the network."""

import torch

from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from tests.oracles.diffusion_propagation import (
    divergence,
    kernel,
    oracle_sampler,
    prior,
    sampler_distribution,
    state_of,
)
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy

GAMMAS = (0.0, 0.6, 0.7, 0.8, 1.0, 1.1)


def measure_gamma(toy: Toy, gamma: float) -> tuple[float, float, float]:
    """Compute mean network calls of a sample, KL(data, samples) in nats, and the total variation."""
    process = DiffusionProcess(AbsorbingGraph(VOCABULARY), LogLinearNoise(1e-3))
    sampler = oracle_sampler(toy, process, {"type": "entropy_bounded", "gamma": gamma}, 1)
    state = state_of(toy.states)
    step = kernel(sampler, sampler.begin(state))
    masked, distribution, calls = (toy.states == VOCABULARY).any(1), prior(toy), 0.0
    for _ in range(LENGTH):
        calls += float(distribution[masked].sum())
        distribution = distribution @ step
    assert torch.allclose(distribution, sampler_distribution(toy, sampler))
    return calls, divergence(toy, distribution), toy.total_variation(distribution)


def bounds_table(toys: int = 3) -> str:
    """Format the means over toys, and the bounds, as Markdown. With three tokens at most one call unmasks several."""
    lines = ["| gamma | network calls | KL(data, samples) | at most | total variation | at most |", "|" + " ---: |" * 6]
    for gamma in GAMMAS:
        found = [measure_gamma(Toy.random(seed, absorbing=True), gamma) for seed in range(toys)]
        calls, nats, variation = (sum(column) / toys for column in zip(*found, strict=True))
        numbers = [f"{value:.3f}" for value in (nats, gamma, variation, (gamma / 2) ** 0.5)]
        lines.append("| " + " | ".join([f"{gamma:.1f}", f"{calls:.2f}", *numbers]) + " |")
    return "\n".join(lines).replace("-0.000", "0.000")
