"""The one module that the Trainer sees: a network with its task, from a batch to a loss."""

from torch import Tensor, nn

from training.tasks.base import Batch, Task


class TaskModule(nn.Module):
    """Calls the task inside `forward`, so that DDP, FSDP and torch.compile take hold of whatever the task calls."""

    accepts_loss_kwargs = False  # else the Trainer hands counts of its own to forward and scales the loss by them

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss and metrics over a batch, scalars on the network's device."""
        return self.task(self.network, batch)
