"""Robustness of samplers to errors of the network: exact distances on toys, with noise on the oracle's logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from model_factory.diffusion.samplers.base import create_sampler, samplers_for
from model_factory.diffusion.samplers.denoiser import Denoiser
from tests.oracles.diffusion_propagation import sampler_distribution
from tests.oracles.diffusion_toy import VOCABULARY, Toy

ERRORS = (0.0, 0.3, 1.0)
STEPS = 128
CHOICES: tuple[str | dict[str, Any], ...] = (
    "first_hitting",
    "ancestral",
    "confidence",
    "entropy_bounded",
    "remasking",
    {"type": "remasking", "eta_cap": 0.1},
    "predictor_corrector",
    {"type": "predictor_corrector", "kappa": 0.5, "t_off": 0.0},
)


def noisy_oracle(toy: Toy, error: float, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Build an oracle with normal noise of standard deviation `error` on its logits, fixed for each input."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(toy.states), 3, VOCABULARY, generator=generator, dtype=torch.float64)

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        logits = toy.oracle(x_t, sigma).clone()
        logits[..., :VOCABULARY] += error * noise[(x_t * torch.tensor([toy.dim**2, toy.dim, 1])).sum(-1)]
        return logits

    return network


def distance(absorbing: bool, choice: str | dict[str, Any], error: float, toys: int = 3) -> float:
    """Compute the mean total variation of a sampler's output from the data."""
    graph = AbsorbingGraph(VOCABULARY) if absorbing else UniformGraph(VOCABULARY)
    process, total = DiffusionProcess(graph, LogLinearNoise(1e-3)), 0.0
    for seed in range(toys):
        toy = Toy.random(seed, absorbing)
        denoiser = Denoiser(noisy_oracle(toy, error, seed), X0Parameterisation(graph))
        total += toy.total_variation(sampler_distribution(toy, create_sampler(choice, process, denoiser, STEPS)))
    return total / toys


def erring_table() -> str:
    """Format the distances by the size of the error as Markdown."""
    lines = [
        "| process | sampler | " + " | ".join(f"error {error:g}" for error in ERRORS) + " |",
        "| --- | --- |" + " ---: |" * len(ERRORS),
    ]
    for absorbing in (True, False):
        graph = AbsorbingGraph(VOCABULARY) if absorbing else UniformGraph(VOCABULARY)
        for choice in CHOICES:
            settings = dict(choice) if isinstance(choice, dict) else {"type": choice}
            name = settings.pop("type")
            if name in samplers_for(graph):
                label = ", ".join([name, *(f"{key} {value:g}" for key, value in settings.items())])
                numbers = [f"{distance(absorbing, choice, error):.3f}" for error in ERRORS]
                lines.append("| " + " | ".join(["absorbing" if absorbing else "uniform", label, *numbers]) + " |")
    return "\n".join(lines)
