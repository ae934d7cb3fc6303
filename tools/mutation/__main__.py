"""`python -m tools.mutation`: insert faults into the mathematical code and find those that no test detects."""

import argparse
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; a forked child must not meet the threads of its parent

from tools.mutation.settings import BUDGET, ROOT, SUITES, find_suite, list_files


def main() -> int:
    """Run the command line; return 1 if a named fault is not detected."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument(
        "--module", action="append", help="a file such as model_factory/diffusion/objectives/losses.py; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel mutants")
    parser.add_argument(
        "--thorough", action="store_true", help="run survivors without a reason against all tests, including slow ones"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET,
        help="seconds of tests per mutant; survivors tested for less are run again",
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this many minutes; the next run resumes")
    parser.add_argument("--sample", type=int, default=0, help="number of mutants per file, sampled by digest")
    parser.add_argument("--fresh", action="store_true", help="discard earlier results")
    parser.add_argument("--named", action="store_true", help="run only the faults of tools/mutation/named.py")
    parser.add_argument("--report", action="store_true", help="only write the tables of docs/mutation.md")
    parser.add_argument("--survivors", action="store_true", help="only show the survivors")
    options = parser.parse_args()
    if options.named:
        from tools.mutation.named import check_named

        return check_named()
    if options.report or options.survivors:
        from tools.mutation.report import show_survivors, write_tables

        return show_survivors(options.module) if options.survivors else write_tables()
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from tools.mutation.campaign import Campaign, Options
    from tools.mutation.results import Results
    from tools.mutation.session import collect

    code, kept = 0, ROOT / ".mutation" / "results.jsonl"
    if options.fresh:
        kept.unlink(missing_ok=True)
    for suite in SUITES:
        files = [path for path in options.module or list_files(suite) if find_suite(path) == suite]
        if not files:
            continue
        if pid := os.fork():  # one process per suite, because each collects different tests
            code = max(code, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            continue
        chosen = Options(suite, files, options.jobs, options.thorough, options.minutes, options.sample, options.budget)
        end = collect(SUITES[suite][1], Campaign(chosen, Results(kept)).work)
        sys.stdout.flush()
        os._exit(end)
    return code


if __name__ == "__main__":
    sys.exit(main())
