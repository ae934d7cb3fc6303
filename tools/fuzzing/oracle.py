"""Check that a config is accepted, or rejected with a position for each problem."""

import contextlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError
from parse_args import main
from tools.fuzzing.cases import Case, CaseInput
from tools.fuzzing.limits import HangError, Limits, enforce_limits
from tools.fuzzing.packaged_configs import config_path

GOOD, INVALID, USAGE, UNREADABLE = range(4)
LIMITS = Limits()
_HEADLINE = re.compile(r"(?P<file>--set .+?|\S.*?)(?P<place>:[1-9]\d*:[1-9]\d*)?: \S.*", re.DOTALL)
_COUNT = re.compile(r"(\d+) problems?")
_TIMEOUT = "timeout: still running after"
_NOTE = "note: "
_EXCERPT = "    "


@dataclass(frozen=True)
class Verdict:
    """Outcome of a case: exit code (None after a crash), time, memory, and the complaint, if any."""

    name: str
    kind: str
    code: int | None
    seconds: float
    megabytes: float
    complaint: str | None = None
    output: str = ""


@dataclass
class RunOutcome:
    """Outcome of a program run in this process: exit code, output, and crash message."""

    code: int | None = None
    out: str = ""
    err: str = ""
    crash: str | None = None


def judge_case(case: Case, folder: Path, limits: Limits = LIMITS) -> Verdict:
    """Check a case in `folder`, which is emptied first."""
    return judge_input(str(case), case.build(), folder, limits, case.kind)


def judge_input(name: str, case_input: CaseInput, folder: Path, limits: Limits, kind: str = "made") -> Verdict:
    """Check files and a command line in `folder`, which is emptied first.

    Retry once after a timeout: the machine may have been busy, and a real hang repeats.
    """
    found = _judge_once(name, case_input, folder, limits, kind)
    return (
        _judge_once(name, case_input, folder, limits, kind) if (found.complaint or "").startswith(_TIMEOUT) else found
    )


def _judge_once(name: str, case_input: CaseInput, folder: Path, limits: Limits, kind: str) -> Verdict:
    for old in folder.iterdir():
        old.unlink()
    for file, content in case_input.files.items():
        (folder / file).write_bytes(content)
    has_torch = "torch" in sys.modules
    ran = RunOutcome()
    with working_directory(folder):
        with capture_output(ran, case_input.encoding):
            seconds, megabytes = run_limited(ran, lambda: main(case_input.argv), limits)
        complaint = ran.crash or find_complaint(ran, case_input)
        if complaint is None and ran.code == GOOD:
            complaint = _check_round_trip(case_input)
    if complaint is None and not has_torch and "torch" in sys.modules:
        complaint = "the check imported torch"
    return Verdict(name, kind, ran.code, seconds, megabytes, complaint, ran.err)


def run_limited(ran: RunOutcome, program: "object", limits: Limits) -> tuple[float, float]:
    """Call `program` under limits; store its exit code or crash in `ran`. Return seconds and megabytes."""
    assert callable(program)
    with enforce_limits(limits) as usage:
        try:
            ran.code = program()
        except SystemExit as stopped:
            ran.code = stopped.code if isinstance(stopped.code, int) else 1
        except HangError:
            ran.crash = f"{_TIMEOUT} {limits.seconds:g} s:\n{traceback.format_exc(-6)}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            ran.crash = f"{type(error).__name__} instead of a message:\n{traceback.format_exc(-8)}"
    if ran.crash is None and usage.megabytes > limits.megabytes:
        ran.crash = f"it used {usage.megabytes:.0f} MB"
    return usage.seconds, usage.megabytes


@contextlib.contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Change the working directory, and restore it and `sys.path` at the end."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path


@contextlib.contextmanager
def capture_output(ran: RunOutcome, encoding: str) -> Iterator[None]:
    """Capture output in `ran`, through streams with a user's encoding; stdin is empty."""
    raw = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(raw[0], encoding, errors="strict", newline="", write_through=True)
    err = io.TextIOWrapper(raw[1], encoding, errors="backslashreplace", newline="", write_through=True)
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
            ran.out, ran.err = (stream.getvalue().decode(encoding) for stream in raw)
    finally:
        sys.stdin = stdin


def find_complaint(ran: RunOutcome, case_input: CaseInput) -> str | None:
    """Return a complaint about the exit code or the output, or None if both are correct."""
    if "Traceback (most recent call last)" in ran.err:
        return "a traceback was printed"
    if case_input.same_as and ran.code != GOOD:
        return "an equivalent config was rejected"
    if "--json" in case_input.argv and ran.code != USAGE:
        return _check_json(ran)
    if ran.code == GOOD:
        return _check_notes(ran.err, case_input)
    if ran.code == USAGE:
        names_option = ran.err.startswith("usage: ") and "error: --set" in ran.err
        return None if names_option else "the usage error does not name the wrong option"
    if ran.code not in (INVALID, UNREADABLE):
        return f"exit code {ran.code}"
    return _check_problems(ran.err, ran.code, case_input)


def _check_problems(text: str, code: int, case_input: CaseInput) -> str | None:
    """Check that each problem has a headline with its position, and that the last line counts them."""
    *lines, count, rest = text.split("\n")
    counted = _COUNT.fullmatch(count)
    if rest or counted is None:
        return "the last line does not count the problems"
    headlines = [line for line in lines if not line.startswith(_EXCERPT)]
    if len(headlines) != int(counted[1]):
        return f"{len(headlines)} headlines, and {counted[1]} problems"
    return next(filter(None, (_check_headline(line, code, case_input) for line in headlines)), None)


def _check_notes(text: str, case_input: CaseInput) -> str | None:
    """Check that only notes are printed for a valid config, with positions like problems."""
    for line in text.splitlines():
        if not line.startswith(_NOTE):
            return f"accepted, but printed {line!r}"
        if complaint := _check_headline(line.removeprefix(_NOTE), INVALID, case_input):
            return complaint
    return None


def _check_headline(line: str, code: int, case_input: CaseInput) -> str | None:
    found = _HEADLINE.fullmatch(line)
    if found is None or not line.isprintable():
        return f"no position, or not one printable line: {line!r}"
    is_of_option = found["file"].startswith("--set ")
    if code == INVALID and not found["place"] and not is_of_option:
        return f"no line and column: {line!r}"
    if not is_of_option and not (found["file"].rpartition("/")[2] in case_input.files or code == UNREADABLE):
        return f"not a file of the case: {line!r}"
    return None


def _check_json(ran: RunOutcome) -> str | None:
    """Check that the report is standard JSON and that each error has a position."""
    try:
        report = json.loads(ran.out, parse_constant=_reject_constant)
    except ValueError as error:
        return f"--json printed invalid JSON: {error}"
    if report["ok"] is not (ran.code == GOOD) or bool(report["errors"]) is report["ok"]:
        return "ok, errors and the exit code disagree"
    for problem in report["errors"]:
        is_placed = (problem["line"] and problem["column"]) or problem["file"].startswith("--set ")
        if not problem["file"] or not (is_placed or ran.code == UNREADABLE) or not problem["message"]:
            return f"a problem without a position: {problem}"
    return None


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_round_trip(case_input: CaseInput) -> str | None:
    """Check that a valid config survives a dump and reload, and that an equivalent one equals its original."""
    options = [word.removeprefix("--set=") for word in case_input.argv if word.startswith("--set=")]
    only = {"--model-only": ("model",), "--data-only": ("global_config", "datasets")}
    sections = next((only[word] for word in case_input.argv if word in only), None)
    try:
        more: dict[str, Any] = {} if sections is None else {"only": sections}
        config = read_experiment("case.yml", options, **more).config
        text = dump(config.to_dict())
        Path("again.yml").write_text(text, encoding="utf-8")
        again = read_experiment("again.yml", **more).config
        text_again = dump(again.to_dict())
    except (ConfigError, UnicodeEncodeError) as error:
        return f"the dumped config was rejected: {error}"
    if text != text_again or (again != config and ".nan" not in text):
        return "dump and reload changed the config"
    if case_input.same_as and config != read_experiment(config_path(case_input.same_as)).config:
        return "an equivalent rewrite changed the config"
    return None
