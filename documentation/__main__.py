"""Write what the docs take from the code, or with --check say what is not as the code has it.

python -m documentation
"""

import argparse
import sys

from documentation.architecture import architecture
from documentation.flow import flow
from documentation.reference import reference
from documentation.since import ROOT


def generated() -> dict[str, str]:
    """Files of the repository to what they are to hold."""
    return {**reference(), "docs/architecture.svg": architecture(), "docs/flow.svg": flow()}


def stale() -> list[str]:
    """Generated files that are missing or differ."""
    return [
        name
        for name, text in generated().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m documentation", description="Write what the docs take from the code."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where something is not current"
    )
    if parser.parse_args().check:
        found = stale()
        print("\n".join(f"{name}: not as the code has it; run python -m documentation" for name in found))
        return int(bool(found))
    for name, text in generated().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
