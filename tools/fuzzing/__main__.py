"""`python -m tools.fuzzing`: check the program with mutated configs and files, or replay one case."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.fuzzing.cases import KINDS, Case, cases
from tools.fuzzing.limits import Limits
from tools.fuzzing.oracle import Verdict, judge_case
from tools.fuzzing.pool import judge_all
from tools.fuzzing.report import format_table

EXAMPLES = """\
examples:
  python -m tools.fuzzing --runs 50000 --jobs 2 --seed 0        mutated configs
  python -m tools.fuzzing --runs 0 --files 2000                 mutated files of runs, tokenizers, prepared data and corpora
  python -m tools.fuzzing --replay configs/full_experiment.yml:tree:17

exit codes: 0 no findings, 1 findings, 2 wrong usage"""


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzzing",
        description="Fuzz all readers: report tracebacks, hangs and messages without a line and column.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs", type=int, default=2000, metavar="N", help="number of mutated configs (default: %(default)s)"
    )
    parser.add_argument(
        "--files", type=int, default=0, metavar="N", help="number of mutated files (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed that selects the cases (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="number of processes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time limit for a config (default: %(default)s)")
    parser.add_argument("--replay", metavar="CASE", help="print a case and judge it again")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if min(args.runs, args.files, args.seed) < 0 or args.jobs < 1:
        parser.error("--runs, --files and --seed must be at least 0, --jobs at least 1")
    if args.replay:
        try:
            return _replay(args.replay, Limits(args.seconds))
        except ValueError as error:
            parser.error(str(error))
    verdicts = list(_run_all(args))
    print(format_table(verdicts))
    findings = [verdict for verdict in verdicts if verdict.complaint is not None]
    for verdict in findings:
        print(f"\n{verdict.name}: {verdict.complaint}\n    python -m tools.fuzzing --replay '{verdict.name}'")
    return 1 if findings else 0


def _run_all(args: argparse.Namespace) -> Iterator[Verdict]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    limits = Limits(args.seconds)
    configs = list(cases(args.runs, args.seed))
    with tqdm(total=args.runs + args.files, unit=" cases", mininterval=1.0) as bar:
        for verdict in judge_all(
            configs, lambda case, folder: judge_case(case, folder, limits), args.jobs, lambda c: c.kind
        ):
            bar.update()
            yield verdict
        if args.files:
            from tools.fuzzing.file_cases import file_cases
            from tools.fuzzing.file_oracle import TargetFolders

            with TargetFolders() as targets:
                files = list(file_cases(args.files, args.seed))
                for verdict in judge_all(files, targets.judge, args.jobs, lambda case: case.target):
                    bar.update()
                    yield verdict


def _replay(name: str, limits: Limits) -> int:
    if name.rsplit(":", 2)[-2:-1][0] not in KINDS:
        from tools.fuzzing.file_cases import FileCase
        from tools.fuzzing.file_oracle import TargetFolders

        with TargetFolders() as targets, tempfile.TemporaryDirectory() as folder:
            verdict = targets.judge(FileCase.parse(name), Path(folder))
    else:
        case = Case.parse(name)
        made = case.build()
        for file, content in made.files.items():
            print(f"--- {file}\n{content.decode(errors='backslashreplace')}")
        print(f"--- parse_args.py {' '.join(map(repr, made.argv))}   (output in {made.encoding})")
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge_case(case, Path(folder), limits)
    print(f"--- exit code {verdict.code} after {verdict.seconds:.3f} s, {verdict.megabytes:.0f} MB\n{verdict.output}")
    print(f"--- {verdict.complaint or 'no finding'}")
    return 1 if verdict.complaint else 0


if __name__ == "__main__":
    sys.exit(main())
