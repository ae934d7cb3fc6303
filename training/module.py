"""Module that the Trainer trains: a network with its task, mapping a batch to a loss."""

from torch import Tensor, nn

from training.tasks.base import Batch, Task


class TaskModule(nn.Module):
    """Module that calls the task inside `forward`, so that DDP, FSDP and torch.compile wrap every call of the task."""

    accepts_loss_kwargs = False  # otherwise the Trainer passes its item counts to forward and scales the loss by them

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's loss and metrics of a batch, scalars on the network's device."""
        return self.task(self.network, batch)
