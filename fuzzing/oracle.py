"""Whether the check of a config ended as it may: good, or refused with a place for each problem."""

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

from experiment.config import read_experiment
from fuzzing.cases import Case, Made
from fuzzing.known import config_path
from fuzzing.limits import HangError, Limits, limited
from parse_args import main
from yaml_config.dump import dump
from yaml_config.errors import ConfigError

GOOD, INVALID, USAGE, UNREADABLE = range(4)
LIMITS = Limits()
_HEADLINE = re.compile(r"(?P<file>--set .+?|\S.*?)(?P<place>:[1-9]\d*:[1-9]\d*)?: \S.*", re.DOTALL)
_COUNT = re.compile(r"(\d+) problems?")
_LATE = "it did not end within"
_NOTE = "note: "
_EXCERPT = "    "


@dataclass(frozen=True)
class Verdict:
    """How one case ended: the exit code (None where it did not end well), what it used, and what is wrong with it."""

    name: str
    kind: str
    code: int | None
    seconds: float
    megabytes: float
    complaint: str | None = None
    output: str = ""


@dataclass
class Ran:
    """A program run in this process: exit code, what it printed, and how it broke."""

    code: int | None = None
    out: str = ""
    err: str = ""
    broke: str | None = None


def judge(case: Case, folder: Path, limits: Limits = LIMITS) -> Verdict:
    """Check a case in `folder`, which is emptied first."""
    return judge_made(str(case), case.made(), folder, limits, case.kind)


def judge_made(name: str, made: Made, folder: Path, limits: Limits, kind: str = "made") -> Verdict:
    """Check files and a command line in `folder`, which is emptied first.

    Who does not end in time is given a second chance: the machine may have been busy, and a hang is one again.
    """
    found = _judged(name, made, folder, limits, kind)
    return _judged(name, made, folder, limits, kind) if (found.complaint or "").startswith(_LATE) else found


def _judged(name: str, made: Made, folder: Path, limits: Limits, kind: str) -> Verdict:
    for old in folder.iterdir():
        old.unlink()
    for file, content in made.files.items():
        (folder / file).write_bytes(content)
    has_torch = "torch" in sys.modules
    ran = Ran()
    with inside(folder):
        with captured(ran, made.encoding):
            seconds, megabytes = run_limited(ran, lambda: main(made.argv), limits)
        complaint = ran.broke or complaint_about(ran, made)
        if complaint is None and ran.code == GOOD:
            complaint = _lasting(made)
    if complaint is None and not has_torch and "torch" in sys.modules:
        complaint = "the check imported torch"
    return Verdict(name, kind, ran.code, seconds, megabytes, complaint, ran.err)


def run_limited(ran: Ran, program: "object", limits: Limits) -> tuple[float, float]:
    """Call `program` under limits; its exit code, or how it broke, goes into `ran`. Returns seconds and megabytes."""
    assert callable(program)
    with limited(limits) as used:
        try:
            ran.code = program()
        except SystemExit as stopped:
            ran.code = stopped.code if isinstance(stopped.code, int) else 1
        except HangError:
            ran.broke = f"{_LATE} {limits.seconds:g} s:\n{traceback.format_exc(-6)}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            ran.broke = f"{type(error).__name__} instead of a message:\n{traceback.format_exc(-8)}"
    if ran.broke is None and used.megabytes > limits.megabytes:
        ran.broke = f"it took {used.megabytes:.0f} MB"
    return used.seconds, used.megabytes


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In a folder, with the path that Python imports by as it was."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path


@contextlib.contextmanager
def captured(ran: Ran, encoding: str) -> Iterator[None]:
    """Output goes into `ran`, through streams that take no more than a user's would; input has an end at once."""
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


def complaint_about(ran: Ran, made: Made) -> str | None:
    """What is wrong with an exit code and what was printed; None where all is as it should be."""
    if "Traceback (most recent call last)" in ran.err:
        return "a traceback was printed"
    if made.same_as and ran.code != GOOD:
        return "a change that changes nothing was refused"
    if "--json" in made.argv and ran.code != USAGE:
        return _about_json(ran)
    if ran.code == GOOD:
        return _about_notes(ran.err, made)
    if ran.code == USAGE:
        is_told = ran.err.startswith("usage: ") and "error: --set" in ran.err
        return None if is_told else "wrong usage without the option that is wrong"
    if ran.code not in (INVALID, UNREADABLE):
        return f"exit code {ran.code}"
    return _about_problems(ran.err, ran.code, made)


def _about_problems(text: str, code: int, made: Made) -> str | None:
    """Each problem begins with its place on a line of its own, and the last line counts them."""
    *lines, count, rest = text.split("\n")
    told = _COUNT.fullmatch(count)
    if rest or told is None:
        return "the last line does not count the problems"
    headlines = [line for line in lines if not line.startswith(_EXCERPT)]
    if len(headlines) != int(told[1]):
        return f"{len(headlines)} headlines, and {told[1]} problems"
    return next(filter(None, (_about_headline(line, code, made) for line in headlines)), None)


def _about_notes(text: str, made: Made) -> str | None:
    """Beside a good config stands nothing but notes, which have places as problems have."""
    for line in text.splitlines():
        if not line.startswith(_NOTE):
            return f"it is good, and printed {line!r}"
        if complaint := _about_headline(line.removeprefix(_NOTE), INVALID, made):
            return complaint
    return None


def _about_headline(line: str, code: int, made: Made) -> str | None:
    found = _HEADLINE.fullmatch(line)
    if found is None or not line.isprintable():
        return f"no place, or not one line of print: {line!r}"
    is_of_option = found["file"].startswith("--set ")
    if code == INVALID and not found["place"] and not is_of_option:
        return f"no line and column: {line!r}"
    if not is_of_option and not (found["file"].rpartition("/")[2] in made.files or code == UNREADABLE):
        return f"no file of the case: {line!r}"
    return None


def _about_json(ran: Ran) -> str | None:
    """The report is JSON, as its standard has it, and each error has a place."""
    try:
        report = json.loads(ran.out, parse_constant=_no_json)
    except ValueError as error:
        return f"--json printed no JSON: {error}"
    if report["ok"] is not (ran.code == GOOD) or bool(report["errors"]) is report["ok"]:
        return "ok, errors and the exit code differ"
    for problem in report["errors"]:
        is_placed = (problem["line"] and problem["column"]) or problem["file"].startswith("--set ")
        if not problem["file"] or not (is_placed or ran.code == UNREADABLE) or not problem["message"]:
            return f"a problem without a place: {problem}"
    return None


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _lasting(made: Made) -> str | None:
    """A good config, written out and read again, is itself; one that nothing was changed in is as it was."""
    options = [word.removeprefix("--set=") for word in made.argv if word.startswith("--set=")]
    only = {"--model-only": ("model",), "--data-only": ("global_config", "datasets")}
    sections = next((only[word] for word in made.argv if word in only), None)
    try:
        more: dict[str, Any] = {} if sections is None else {"only": sections}
        config = read_experiment("case.yml", options, **more).config
        text = dump(config.to_dict())
        Path("again.yml").write_text(text, encoding="utf-8")
        again = read_experiment("again.yml", **more).config
        text_again = dump(again.to_dict())
    except (ConfigError, UnicodeEncodeError) as error:
        return f"what was good is not, once written out: {error}"
    if text != text_again or (again != config and ".nan" not in text):
        return "written out and read again it is another"
    if made.same_as and config != read_experiment(config_path(made.same_as)).config:
        return "a change that changes nothing changed the config"
    return None
