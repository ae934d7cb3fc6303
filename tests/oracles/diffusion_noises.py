"""Toys with the noise of any graph, for samplers that fit every process."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise, NoiseSchedule
from tests.oracles.diffusion_toy import VOCABULARY, Toy


class TurningGraph(Graph):
    """Noise that is uniform at first and becomes masks: the rate's weights at u are exp(-u) uniform, the rest mask.

    The integral of exp(u - sigma) exp(-u) is sigma exp(-sigma), which is what uniform noise has of the total.
    """

    def __init__(self) -> None:
        super().__init__(VOCABULARY, torch.tensor([0.0] * VOCABULARY + [1.0]))

    def noise(self, sigma: Tensor) -> Tensor:
        uniform = (sigma * torch.exp(-sigma))[..., None]
        masks = -torch.expm1(-sigma)[..., None] - uniform
        return torch.cat([(uniform / VOCABULARY).expand(*uniform.shape[:-1], VOCABULARY), masks], -1)

    def noise_between(self, dsigma: Tensor, sigma: Tensor | None = None) -> Tensor:
        assert sigma is not None
        return self.noise(sigma) - torch.exp(-dsigma)[..., None] * self.noise(sigma - dsigma)


@dataclass(frozen=True)
class NoisyToy(Toy):
    """Toy with the noise of any graph, from its definition."""

    graph: Graph | None = None

    @property
    def dim(self) -> int:
        assert self.graph is not None
        return self.graph.dim

    def kernel(self, sigma: Tensor) -> Tensor:
        assert self.graph is not None
        one = torch.eye(self.dim, dtype=torch.float64)
        return torch.exp(-sigma)[..., None, None] * one + self.graph.noise(sigma)[..., None, :]


GRAPHS: dict[str, Graph] = {
    "absorbing": AbsorbingGraph(VOCABULARY),
    "uniform": UniformGraph(VOCABULARY),
    "mixture": Graph(VOCABULARY, torch.tensor([0.1, 0.3, 0.2, 0.4])),
    "turning": TurningGraph(),
}
SCHEDULES: list[NoiseSchedule] = [LogLinearNoise(1e-3), CosineNoise(1e-3), GeometricNoise(1e-2, 5.0)]


def noisy_toy(kind: str, seed: int = 0) -> NoisyToy:
    plain = Toy.random(seed, absorbing=kind == "absorbing")
    return NoisyToy(plain.joint, plain.absorbing, GRAPHS[kind])


def process_of(kind: str, schedule: NoiseSchedule | None = None) -> DiffusionProcess:
    return DiffusionProcess(GRAPHS[kind], schedule or LogLinearNoise(1e-3))
