"""Write sections of RESULTS.md: each script replaces only its own section."""

import platform
import re
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(*packages: str) -> str:
    """Describe the origin of the numbers: command, date, processor, versions."""
    command = f"python -m {_module()} {' '.join(sys.argv[1:])}".strip()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"`{command}`, {date.today()}, Python {platform.python_version()}, {versions}, on {_processor()}."


def write_section(name: str, text: str) -> None:
    """Write `text` between the markers of the section `name`; append the section if it is missing."""
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
    """Return the processor's name from /proc/cpuinfo, or `platform.processor()`."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()
