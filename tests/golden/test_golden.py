"""Bad files and the exact messages they get.

Each `.txt` here holds cases of the form

    ### what is wrong
    --set a.b=c          (any number of options, or none)
    yaml ...
    ---> exit code
    expected output

`pytest tests/golden --update-golden` rewrites the expected parts; read the diff before committing it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from parse_args import main

HERE = Path(__file__).parent
_CASE = re.compile(r"^### (?P<title>.*)\n(?P<body>(?:.*\n)*?)---> (?P<code>\d)\n(?P<expected>(?:(?!### ).*\n)*)", re.M)


@dataclass(frozen=True)
class Case:
    file: Path
    title: str
    options: tuple[str, ...]
    text: str
    code: int
    expected: str

    def __str__(self) -> str:
        return f"{self.file.stem}: {self.title}"


def read_cases(file: Path) -> list[Case]:
    cases = []
    for match in _CASE.finditer(file.read_text(encoding="utf-8")):
        lines = match["body"].splitlines(keepends=True)
        options = [line.strip() for line in lines if line.startswith("--")]
        text = "".join(line for line in lines if not line.startswith("--"))
        cases.append(Case(file, match["title"], tuple(options), text, int(match["code"]), match["expected"].rstrip()))
    return cases


CASES = [case for file in sorted(HERE.glob("*.txt")) for case in read_cases(file)]


def run(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.chdir(folder)
    Path("case.yml").write_text(case.text, encoding="utf-8")
    options = [word for option in case.options for word in option.split(" ", 1)]
    code = main(["--config", "case.yml", *options])
    out, err = capsys.readouterr()
    return code, (err or out).rstrip()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_message(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    code, output = run(case, tmp_path, monkeypatch, capsys)
    if request.config.getoption("--update-golden"):
        _update(case, code, output)
        return
    assert output == case.expected
    assert code == case.code
    assert code != 0
    assert "Traceback" not in output


def _update(case: Case, code: int, output: str) -> None:
    text = case.file.read_text(encoding="utf-8")

    def rewrite(match: re.Match[str]) -> str:
        if match["title"] != case.title:
            return match[0]
        return f"### {match['title']}\n{match['body']}---> {code}\n{output}\n\n"

    case.file.write_text(_CASE.sub(rewrite, text), encoding="utf-8")
