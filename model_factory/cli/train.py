"""Options of the verb `train`; torch is imported only once they are valid."""

import argparse
from collections.abc import Sequence

EXAMPLES = """\
examples:
  python train.py --config configs/full_experiment.yml --output runs/first
  python train.py --config configs/full_experiment.yml --output runs/first --resume
  python train.py --config my.yml --output runs/fast --set training.learning_rate=1e-3 --set training.bf16=true
  torchrun --nproc-per-node=4 train.py --config my.yml --output runs/four_gpus

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 training failed"""


def build_parser(prog: str = "train.py") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train the experiment of a YAML file into a run folder.",
        epilog=EXAMPLES.replace("python train.py", prog) if " " in prog else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="F", required=True, help="the experiment's YAML file")
    parser.add_argument("--output", metavar="RUN", required=True, help="the run's folder, new or empty")
    parser.add_argument(
        "--set", metavar="K=V", action="append", default=[], dest="overrides", help="override a config value"
    )
    parser.add_argument(
        "--resume", action="store_true", help="resume from the folder's last checkpoint; start from scratch without one"
    )
    parser.add_argument(
        "--plugin", metavar="MODULE", action="append", default=[], help="import a module that registers custom types"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Run the command line and return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    for name in ("config", "output"):
        if not getattr(args, name):  # an empty path would mean the working directory
            parser.error(f"--{name} is empty; give it a value")
    from model_factory.cli.train_run import run

    return run(args, parser.error)
