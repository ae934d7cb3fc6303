"""Options of the verb `train`; torch is imported only once they are valid."""

import argparse
from collections.abc import Sequence

from model_factory.cli.options import build_verb_parser
from model_factory.cli.run_command import run_verb
from model_factory.training.run.checkpoints import resume_hint
from model_factory.yaml_config.process import lasting_output

EXAMPLES = """\
examples:
  python train.py --config configs/full_experiment.yml --output runs/first
  python train.py --config configs/full_experiment.yml --output runs/first --resume
  python train.py --config configs/full_experiment.yml --output runs/first --resume --set training.max_steps=2000
  python train.py --config my.yml --output runs/fast --set training.learning_rate=1e-3 --set training.bf16=true
  python train.py --config my.yml --output runs/second_gpu --gpu 1
  torchrun --nproc-per-node=4 -m model_factory train --config my.yml --output runs/four_gpus

exit codes: 0 good, 1 invalid, 2 wrong usage, 3 unreadable file or run folder, 4 training failed, 130 interrupted"""


def build_parser(prog: str = "train.py") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = build_verb_parser(
        prog,
        script="python train.py",
        description="Train the experiment of a YAML file into a run folder.",
        examples=EXAMPLES,
        required=("config",),
    )
    parser.add_argument("--output", metavar="RUN", required=True, help="the run's folder, new or empty")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume from the last checkpoint of the folder, with the settings given now; without one, start from scratch",
    )
    parser.add_argument(
        "--gpu", metavar="N", type=_gpu, help="train on this GPU alone, counted from 0, whatever device the file names"
    )
    return parser


def _gpu(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise argparse.ArgumentTypeError(f"takes the index of a GPU, as in --gpu 1; got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Run the command line and return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)

    def work() -> int:
        from model_factory.cli.train_run import run

        with lasting_output():
            return run(args)

    return run_verb(args, parser.error, work, lambda: f"{args.output}: interrupted; {resume_hint(args.output)}")
