"""CPU time and memory of checking a file: this checkout against another one, in turns.

    git worktree add ../before COMMIT
    python -m benchmarks.check_time --other ../before

Both checkouts are compiled to bytecode first. Each round checks the file once in each; the ratio is the median over rounds.
"""

import argparse
import compileall
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ("configs/full_experiment.yml", "configs/diffusion/mdlm.yml", "configs/training/translation.yml")


def check(checkout: Path, config: str) -> tuple[float, float]:
    """Check a file in a separate process; return its CPU seconds and its peak memory in MB."""
    command = [sys.executable, "parse_args.py", "--config", config]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{checkout}: the check of {config} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print one line per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True, type=Path, metavar="DIR", help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=25, help="checks of each file in each checkout")
    args = parser.parse_args()
    for checkout in (ROOT, args.other):
        for folder in sorted({path.parent for path in checkout.glob("*/**/*.py") if ".venv" not in path.parts}):
            compileall.compile_dir(str(folder), maxlevels=0, quiet=2)
        compileall.compile_file(str(checkout / "parse_args.py"), quiet=2)
    print(
        "| file | other, CPU s | this, CPU s | ratio, median of rounds | memory, MB |\n| --- | --- | --- | --- | --- |"
    )
    for config in CONFIGS:
        pairs = [(check(args.other, config), check(ROOT, config)) for _ in range(args.rounds)]
        theirs, ours = (statistics.median(one[side][0] for one in pairs) for side in (0, 1))
        ratio = statistics.median(here[0] / there[0] for there, here in pairs)
        memory = max(here[1] for _, here in pairs)
        print(f"| {config} | {theirs:.3f} | {ours:.3f} | {ratio:.3f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
