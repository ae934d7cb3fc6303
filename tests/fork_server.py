"""Run Python commands like `python ...`, in processes forked from a server with torch and transformers imported."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.processes import die_with_parent

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.preload"])


def run_in_fork(words: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Run `python *words` in `folder` (script, `-m module` or `-c text`); return exit code, stdout and stderr."""
    out, error = folder / ".stdout", folder / ".stderr"
    process = CONTEXT.Process(target=_run, args=(list(words), str(folder), str(out), str(error)))
    process.start()
    process.join()
    return process.exitcode, out.read_text(encoding="utf-8"), error.read_text(encoding="utf-8")


def _run(words: list[str], folder: str, out: str, error: str) -> None:
    die_with_parent()
    os.chdir(folder)
    for number, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", folder))]
    os.environ["PYTHONPATH"] = folder
    try:
        _execute(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _execute(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.modules.pop(words[1], None)  # a new process would not have imported it
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<snippet>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
