"""A mutated file by its name, `TARGET:file:SEED`."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzzing.file_mutators import mutate_file
from fuzzing.targets import TARGETS


@dataclass(frozen=True)
class FileCase:
    """One file of a target, changed in one way."""

    target: str
    seed: int

    def __str__(self) -> str:
        return f"{self.target}:file:{self.seed}"

    @classmethod
    def named(cls, name: str) -> "FileCase":
        """The case of a name; raises ValueError for what is none."""
        target, _, seed = name.partition(":file:")
        if target not in TARGETS or not seed.isdigit():
            raise ValueError(f"{name!r} names no case; a case is TARGET:file:SEED, TARGET one of {', '.join(TARGETS)}")
        return cls(target, int(seed))

    def apply(self, folder: Path) -> tuple[Path, str]:
        """Change a file below `folder`, a copy of the target's; returns it, relative to the folder, and how."""
        rng = random.Random(str(self))
        pattern = rng.choice(TARGETS[self.target].files)
        found = sorted(path for path in folder.glob(pattern) if path.is_file() and path.suffix != ".lock")
        path = rng.choice(found)
        return path.relative_to(folder), mutate_file(path, rng)


def file_cases(runs: int, seed: int) -> Iterator[FileCase]:
    """`runs` cases over all targets in turn."""
    names = list(TARGETS)
    for number in range(runs):
        yield FileCase(names[number % len(names)], seed * 10_000_000 + number)
