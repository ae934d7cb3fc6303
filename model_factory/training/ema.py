"""EMA: exponential moving average of the weights (Polyak averaging), evaluated and saved instead of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model_factory.training.sharding import copy_whole, local_part


class EMA:
    """Exponential moving average: average <- decay * average + (1 - decay) * weights after each step.

    At step n the decay is at most (1 + n) / (10 + n), so that random initial weights are forgotten quickly. Buffers and
    frozen weights are not averaged. Of sharded weights each process averages its own part.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.values = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update with the weights after optimiser step `step`, counted from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = dict(self.network.named_parameters())
        averages = [local_part(value) for value in self.values.values()]
        torch._foreach_lerp_(averages, [local_part(current[name].detach()) for name in self.values], weight)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Load saved `values`, each with the shape of its weight; raise KeyError for a missing name."""
        for name, tensor in self.values.items():
            copy_whole(tensor, values[name])

    def copy_to_network(self) -> None:
        """Replace the network's weights by their averages."""
        _copy(dict(self.network.named_parameters()), self.values)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights inside the block, and restore the network's own weights after it."""
        parameters = {name: p for name, p in self.network.named_parameters() if name in self.values}
        own = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            _copy(parameters, self.values)
            yield
        finally:
            _copy(parameters, own)


@torch.no_grad()
def _copy(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        local_part(parameters[name]).copy_(local_part(value))
