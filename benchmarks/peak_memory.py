"""Measure the peak memory of one call in a subprocess: the rise of the resident set above its inputs (Linux)."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_rise(call: Callable[[], object]) -> int:
    """Return the bytes by which this process's resident set rises during the call, outputs included."""
    RESET.write_text("5")  # resets the high-water mark
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """Return the bytes of this process's resident set: VmRSS current, VmHWM peak."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def measure_in_subprocess(contender: str, form: str, tokens: int, *, backward: bool) -> int | None:
    """Return `peak_rise` of a contender of `benchmarks.contenders` in a new process; None if it ran out of memory."""
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
    make_call(given.contender, given.form, SHAPE, 128, backward=given.backward)()  # loads libraries
    call = make_call(given.contender, given.form, SHAPE, given.tokens, backward=given.backward)
    print(peak_rise(call))


if __name__ == "__main__":
    main()
