"""Division of an optimiser step's rows over processes and gradient accumulation parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Division of a step: `batch_size` rows per process and part, `accumulation` parts, `world` processes."""

    batch_size: int
    accumulation: int = 1
    world: int = 1
    rank: int = 0

    @property
    def rows(self) -> int:
        """Return the number of rows of an optimiser step."""
        return self.batch_size * self.accumulation * self.world
