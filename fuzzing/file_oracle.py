"""Whether a program that was given a mutated file ended well, or with a message that names it."""

import logging
import shutil
import tempfile
import warnings
from pathlib import Path

from fuzzing.file_cases import FileCase
from fuzzing.limits import Limits
from fuzzing.oracle import Ran, Verdict, captured, inside, run_limited
from fuzzing.targets import TARGETS

LIMITS = Limits(seconds=20.0, of_processor=True)
"""A run that goes on trains a step, which alone takes a second."""
_CODES = (0, 1, 2, 3, 4)
_INDIRECT = (
    ("config.yml", "run was trained with another config"),
    ("checkpoint.json", "run was trained on"),
    ("corpus/*.txt", "data set 'tiny'"),
    ("rows.arrow", "run: token id"),
    ("*.safetensors", "not finite"),
    ("optimizer.pt", "not finite"),
)
"""What messages say of files whose damage shows elsewhere: another corpus makes another tokenizer, and of rows that were
prepared only the sizes are looked at, as their content may be many gigabytes."""


class Workplace:
    """A folder with each target as it was made, from which cases take copies; gone at the end of the block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzzing-")
        self.path = Path(self._folder.name)

    def __enter__(self) -> "Workplace":
        """Make every target that cases may name, before processes share the work."""
        for name in TARGETS:
            self.made(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def made(self, name: str) -> Path:
        """The folder of a target, made at the first use; its program has run once on it, so that all is imported."""
        place = self.path / name
        if not place.exists():
            place.mkdir()
            ran = Ran()
            with inside(place), captured(ran, "utf-8"), warnings.catch_warnings():
                TARGETS[name].make()
            warm = self.path / f"{name}-warm"
            shutil.copytree(place, warm)
            with inside(warm), captured(ran, "utf-8"):
                code = TARGETS[name].program()
            shutil.rmtree(warm)
            if code != 0:
                raise RuntimeError(f"{name} does not work as it was made: {ran.err}")
        return place

    def judge(self, case: FileCase, folder: Path) -> Verdict:
        """Change a file in a copy of the case's target, and run what reads it there."""
        place = folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.made(case.target), place, symlinks=True)
        changed, way = case.apply(place)
        ran = Ran()
        logging.disable()
        try:
            with inside(place), captured(ran, "utf-8"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seconds, megabytes = run_limited(ran, TARGETS[case.target].program, LIMITS)
        finally:
            logging.disable(logging.NOTSET)
        complaint = ran.broke or _complaint(ran, changed)
        if complaint is not None:
            complaint = f"{changed} ({way}): {complaint}"
        return Verdict(str(case), case.target, ran.code, seconds, megabytes, complaint, ran.err)


def _complaint(ran: Ran, changed: Path) -> str | None:
    if "Traceback (most recent call last)" in ran.err:
        return f"a traceback was printed:\n{ran.err[-2000:]}"
    if ran.code not in _CODES:
        return f"exit code {ran.code}: {ran.err[-500:]}"
    if ran.code == 0:
        return None
    folders = [folder.as_posix() for folder in changed.parents if "/" in folder.as_posix()]
    names = [changed.name, *folders, *(why for pattern, why in _INDIRECT if changed.match(pattern))]
    return None if any(name in ran.err for name in names) else f"the message does not name it: {ran.err[-500:]!r}"
