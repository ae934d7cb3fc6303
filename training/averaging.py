"""An exponential moving average of the weights (Polyak averaging), evaluated and saved in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """average <- decay * average + (1 - decay) * weights after each step.

    Early on the decay is (1 + n) / (10 + n) at step n, so that random first weights are soon forgotten. Buffers and
    frozen weights are not averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.values = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step`, counted from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = dict(self.network.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [current[name].detach() for name in self.values], weight)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from an earlier run's `values`, each of the shape of its weight; raises KeyError for a missing name."""
        for name, tensor in self.values.items():
            tensor.copy_(values[name])

    def put(self) -> None:
        """Give the network the averaged weights for good."""
        _put(dict(self.network.named_parameters()), self.values)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside the block, its own ones afterwards."""
        parameters = {name: p for name, p in self.network.named_parameters() if name in self.values}
        own = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            _put(parameters, self.values)
            yield
        finally:
            _put(parameters, own)


@torch.no_grad()
def _put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
