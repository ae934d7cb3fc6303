"""Evaluation mode of a network for the length of a block, such as a trial call or a draw during training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; afterwards, also after an error, it is back in the mode that it had."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
