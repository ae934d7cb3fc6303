"""Peak memory of one call in a process of its own: how far the resident set rose above what its inputs took (Linux)."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def rise(call: Callable[[], object]) -> int:
    """Bytes by which this process's resident set rose above the present one during the call, outputs included."""
    RESET.write_text("5")  # the high-water mark starts again from here
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of this process's resident set: VmRSS now, VmHWM at the most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def in_a_process(contender: str, form: str, tokens: int, *, backward: bool) -> int | None:
    """`rise` of a contender of `benchmarks.contenders` in a fresh process; None where it ran out of memory."""
    command = [sys.executable, "-m", __spec__.name, contender, form, str(tokens)]
    done = subprocess.run([*command, *["--backward"] * backward], capture_output=True, text=True)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def main() -> None:
    """Print the bytes."""
    from benchmarks.contenders import SHAPE, make_call

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender")
    parser.add_argument("form", choices=["causal", "full"])
    parser.add_argument("tokens", type=int)
    parser.add_argument("--backward", action="store_true")
    given = parser.parse_args()
    make_call(given.contender, given.form, SHAPE, 128, backward=given.backward)()  # libraries are loaded on first use
    call = make_call(given.contender, given.form, SHAPE, given.tokens, backward=given.backward)
    print(rise(call))


if __name__ == "__main__":
    main()
