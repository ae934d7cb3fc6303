"""How the rows of an optimiser step are shared over processes and accumulated parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """How a step's rows are shared: `batch_size` rows a process and part, `accumulation` parts, `world` processes."""

    batch_size: int
    accumulation: int = 1
    world: int = 1
    rank: int = 0

    @property
    def rows(self) -> int:
        """Rows of an optimiser step."""
        return self.batch_size * self.accumulation * self.world
