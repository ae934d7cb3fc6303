"""Check that a program given a mutated file succeeds, or fails with a message that names the file."""

import logging
import shutil
import tempfile
import warnings
from pathlib import Path

from tools.fuzzing.file_cases import FileCase
from tools.fuzzing.limits import Limits
from tools.fuzzing.oracle import RunOutcome, Verdict, capture_output, run_limited, working_directory
from tools.fuzzing.targets import TARGETS

LIMITS = Limits(seconds=20.0, of_processor=True)
"""A resumed run trains one step, which alone takes a second."""
_CODES = (0, 1, 2, 3, 4)
_INDIRECT_MESSAGES = (
    ("config.yml", "run was trained with another config"),
    ("checkpoint.json", "run was trained on"),
    ("corpus/*.txt", "data set 'tiny'"),
    ("rows.arrow", "run: token id"),
    ("*.safetensors", "not finite"),
    ("optimizer.pt", "not finite"),
    ("connector.json", "pretrained model 'connector'"),
)
"""Accepted messages for files whose damage shows elsewhere: a changed corpus changes the tokenizer, prepared rows are
checked only by size, because they may have many gigabytes, and without connector.json a connector is read as a backbone."""


class TargetFolders:
    """Temporary folder with each target, from which cases take copies; removed at the end of the block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzzing-")
        self.path = Path(self._folder.name)

    def __enter__(self) -> "TargetFolders":
        """Build every target before worker processes are forked."""
        for name in TARGETS:
            self.prepare(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def prepare(self, name: str) -> Path:
        """Return a target's folder, built at first use; run its program once, so that all imports are done."""
        target = self.path / name
        if not target.exists():
            target.mkdir()
            ran = RunOutcome()
            with working_directory(target), capture_output(ran, "utf-8"), warnings.catch_warnings():
                TARGETS[name].make()
            warm = self.path / f"{name}-warm"
            shutil.copytree(target, warm)
            with working_directory(warm), capture_output(ran, "utf-8"):
                code = TARGETS[name].program()
            shutil.rmtree(warm)
            if code != 0:
                raise RuntimeError(f"target {name} fails without a mutation: {ran.err}")
        return target

    def judge(self, case: FileCase, folder: Path) -> Verdict:
        """Mutate a file in a copy of the case's target and run the target's program on it."""
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.prepare(case.target), copy, symlinks=True)
        changed, way = case.apply(copy)
        ran = RunOutcome()
        logging.disable()
        try:
            with working_directory(copy), capture_output(ran, "utf-8"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seconds, megabytes = run_limited(ran, TARGETS[case.target].program, LIMITS)
        finally:
            logging.disable(logging.NOTSET)
        complaint = ran.crash or _find_complaint(ran, changed)
        if complaint is not None:
            complaint = f"{changed} ({way}): {complaint}"
        return Verdict(str(case), case.target, ran.code, seconds, megabytes, complaint, ran.err)


def _find_complaint(ran: RunOutcome, changed: Path) -> str | None:
    if "Traceback (most recent call last)" in ran.err:
        return f"a traceback was printed:\n{ran.err[-2000:]}"
    if ran.code not in _CODES:
        return f"exit code {ran.code}: {ran.err[-500:]}"
    if ran.code == 0:
        return None
    folders = [folder.as_posix() for folder in changed.parents if "/" in folder.as_posix()]
    names = [changed.name, *folders, *(text for pattern, text in _INDIRECT_MESSAGES if changed.match(pattern))]
    return None if any(name in ran.err for name in names) else f"the message does not name the file: {ran.err[-500:]!r}"
