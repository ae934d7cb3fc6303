"""Certificates of prompts: exact distances of samplers from p(x | prompt), with an oracle as the network."""

from collections.abc import Sequence

import torch

from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from tests.oracles.diffusion_propagation import oracle_sampler, sampler_distribution
from tests.oracles.diffusion_toy import VOCABULARY, Toy
from tests.oracles.hybrid_toy import HybridToy

STEPS = (16, 64)
SAMPLERS = ("ancestral", "analytic", "euler")
PROMPT = torch.tensor([False, False, True])
P_UNIFORM = 0.3
GRAPHS = {
    "absorbing": AbsorbingGraph(VOCABULARY),
    "uniform": UniformGraph(VOCABULARY),
    "hybrid": HybridGraph(VOCABULARY, P_UNIFORM),
    "hybrid, gamma 2": HybridGraph(VOCABULARY, P_UNIFORM, 2.0),
}


def distance(noise: str, sampler: str, steps: int, *, prompt: bool = True, told: bool = True, toys: int = 3) -> float:
    """Compute the mean total variation of a sampler's output from the data, or from p(x | prompt) with a prompt.

    Without `told` the network gets one noise level for a row, the prompt's tokens included.
    """
    process, total = DiffusionProcess(*GRAPHS[noise].at_pace(LogLinearNoise(1e-3))), 0.0
    kept = PROMPT if prompt else None
    for seed in range(toys):
        toy = Toy.random(seed, noise == "absorbing")
        if noise.startswith("hybrid"):
            toy = HybridToy.drawn(seed, P_UNIFORM, 2.0 if "gamma" in noise else 1.0)
        chosen = oracle_sampler(toy, process, sampler, steps, frozen=kept if told else None)
        target = toy.given(PROMPT) if prompt else toy
        total += target.total_variation(sampler_distribution(toy, chosen, kept))
    return total / toys


def prompts_table(noises: Sequence[str] = tuple(GRAPHS), samplers: Sequence[str] = SAMPLERS) -> str:
    """Format the distances by noise and sampler as Markdown."""
    head = [f"{count} steps" for count in STEPS]
    titles = ["noise", "sampler", *head, "falls by", "without a prompt", f"one level a row, {head[-1]}"]
    lines = ["| " + " | ".join(titles) + " |", "| --- | --- |" + " ---: |" * (len(titles) - 2)]
    for noise in noises:
        for sampler in samplers:
            coarse, fine = (distance(noise, sampler, count) for count in STEPS)
            plain = [distance(noise, sampler, count, prompt=False) for count in STEPS]
            row_level = distance(noise, sampler, STEPS[-1], told=False)
            cells = [
                noise,
                sampler,
                f"{coarse:.4f}",
                f"{fine:.4f}",
                f"{coarse / fine:.1f}",
                f"{plain[0] / plain[1]:.1f}",
            ]
            lines.append("| " + " | ".join([*cells, f"{row_level:.4f}"]) + " |")
    return "\n".join(lines)
