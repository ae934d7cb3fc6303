"""Write the generated files of the docs, or list the outdated ones with --check.

python -m tools.documentation
"""

import argparse
import sys

from tools.documentation.architecture import architecture_svg
from tools.documentation.flow import flow_svg
from tools.documentation.reference import reference_files
from tools.documentation.since import ROOT


def generate_files() -> dict[str, str]:
    """Map each generated file to its expected content."""
    return {**reference_files(), "docs/architecture.svg": architecture_svg(), "docs/flow.svg": flow_svg()}


def list_outdated() -> list[str]:
    """List generated files that are missing or outdated."""
    return [
        name
        for name, text in generate_files().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.documentation", description="Write the generated files of the docs."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is outdated")
    if parser.parse_args().check:
        found = list_outdated()
        print("\n".join(f"{name}: outdated; run python -m tools.documentation" for name in found))
        return int(bool(found))
    for name, text in generate_files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
