"""Cases of mutated files, named `TARGET:file:SEED`."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.fuzzing.file_mutators import mutate_file
from tools.fuzzing.targets import TARGETS


@dataclass(frozen=True)
class FileCase:
    """Mutation of one file of a target."""

    target: str
    seed: int

    def __str__(self) -> str:
        return f"{self.target}:file:{self.seed}"

    @classmethod
    def parse(cls, name: str) -> "FileCase":
        """Parse the name of a case; raise ValueError if it is invalid."""
        target, _, seed = name.partition(":file:")
        if target not in TARGETS or not seed.isdigit():
            raise ValueError(f"{name!r} is not a case; write TARGET:file:SEED, TARGET one of {', '.join(TARGETS)}")
        return cls(target, int(seed))

    def apply(self, folder: Path) -> tuple[Path, str]:
        """Mutate a file in `folder`, a copy of the target's; return its relative path and a description."""
        rng = random.Random(str(self))
        pattern = rng.choice(TARGETS[self.target].files)
        found = sorted(path for path in folder.glob(pattern) if path.is_file() and path.suffix != ".lock")
        path = rng.choice(found)
        return path.relative_to(folder), mutate_file(path, rng)


def file_cases(runs: int, seed: int) -> Iterator[FileCase]:
    """Yield `runs` cases, cycling through all targets."""
    names = list(TARGETS)
    for number in range(runs):
        yield FileCase(names[number % len(names)], seed * 10_000_000 + number)
