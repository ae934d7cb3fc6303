"""Sections of RESULTS.md: each script writes its own and leaves the others alone."""

import platform
import re
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(*packages: str) -> str:
    """How the numbers came about: command, date, processor, versions."""
    command = f"python -m {_module()} {' '.join(sys.argv[1:])}".strip()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"`{command}`, {date.today()}, Python {platform.python_version()}, {versions}, on {_processor()}."


def write_section(name: str, text: str) -> None:
    """Put `text` between the marks of the section `name`, which is added at the end where there is none."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: section, old) if pattern.search(old) else f"{old.rstrip()}\n\n{section}\n"
    RESULTS.write_text(new, encoding="utf-8")


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "benchmarks"


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()
