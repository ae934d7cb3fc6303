"""Peak memory and CPU time of head and loss, and of a whole training step, with and without logits of the batch.

    python -m benchmarks.head_loss            # 8 x 512 tokens of GPT-2's vocabulary, width 256
    python -m benchmarks.head_loss --large    # 1,024 rows of a vocabulary of 262,144

Each figure is of a separate process, on one thread: the rise of its resident set above what stood before the step.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.peak_memory import peak_rise
from benchmarks.report import table

SECTIONS = {
    "mdlm": {"objective": {"type": "mdlm"}},
    "d3pm": {"objective": {"type": "d3pm"}, "schedule": {"type": "discrete", "num_steps": 100}},
    "bd3lm": {"objective": {"type": "bd3lm", "block_size": 16}},
    "sedd": {"objective": {"type": "sedd"}},
    "sedd, uniform": {"objective": {"type": "sedd"}, "process": {"type": "uniform"}},
    "udlm": {"objective": {"type": "udlm"}, "process": {"type": "uniform"}},
    "gidd": {"objective": {"type": "gidd"}, "process": {"type": "hybrid"}},
}
WIDTH = 256


def head_alone(name: str, vocabulary: int, rows: int) -> Callable[[], object]:
    """Return a call of head and loss, forward and backward, of an objective or of a decoder."""
    from model.head_loss import head_loss, head_weights
    from model_factory.diffusion.objectives.row_losses import RowTerms

    objective = None if name == "decoder" else _model(name, vocabulary, layers=1).objective
    outputs = vocabulary if objective is None else objective.graph.dim
    head, hidden = nn.Linear(WIDTH, outputs), torch.randn(rows, WIDTH, requires_grad=True)
    tokens, weight = torch.randint(vocabulary, (8, rows // 8)), torch.full((rows,), 1.0 / rows, dtype=torch.float64)
    weights = head_weights(head)
    assert weights is not None

    def call() -> None:
        terms: RowTerms | None = RowTerms("cross_entropy", [tokens.flatten()], torch.arange(rows), weight, weight)
        if objective is not None:
            frozen, times = torch.zeros_like(tokens, dtype=torch.bool), (torch.arange(8, dtype=torch.float64) + 0.5) / 8
            terms = objective.row_terms(objective.draw(tokens, times, None, frozen, training=True), tokens, frozen)
        assert terms is not None
        head_loss(hidden, weights, terms, terms.factor / rows, vocabulary)[0].backward()

    return call


def whole_step(name: str, vocabulary: int, rows: int, *, with_logits: bool) -> Callable[[], object]:
    """Return a call of a training step's forward and backward."""
    model = _model(name, vocabulary, layers=2).train()
    model.has_row_form = model.has_row_form and not with_logits
    tokens: Tensor = torch.randint(vocabulary, (8, rows // 8))

    def call() -> None:
        model.zero_grad()
        model(tokens, seed=0).loss.backward()

    return call


def _model(name: str, vocabulary: int, layers: int):  # type: ignore[no-untyped-def]
    from model.discrete.model import DiffusionModel
    from model.discrete.types import DiffusionConfig

    backbone = {"type": "ddit", "d_model": WIDTH, "cond_dim": 64, "num_layers": layers, "num_heads": 4, "device": "cpu"}
    section = {**SECTIONS[name], "vocab_size": vocabulary, "length": 512, "backbone": backbone}
    return DiffusionModel(DiffusionConfig.model_validate(section))


FORMS = {
    "head and loss": head_alone,
    "step": partial(whole_step, with_logits=False),
    "step with logits": partial(whole_step, with_logits=True),
}


def measure(name: str, form: str, vocabulary: int, rows: int) -> None:
    """Print the peak in bytes of a first call, and the CPU seconds of a second one."""
    torch.set_num_threads(1)
    call = FORMS[form](name, vocabulary, rows)
    FORMS[form]("mdlm", 101, 64)()  # loads libraries
    peak = peak_rise(call)
    started = time.process_time()
    call()
    print(peak, time.process_time() - started)


def main() -> None:
    """Measure every objective in a separate process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="a vocabulary of 262,144, of mdlm and udlm")
    parser.add_argument("--one", nargs=4, metavar=("NAME", "FORM", "VOCABULARY", "ROWS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(given.one[0], given.one[1], int(given.one[2]), int(given.one[3]))
        return
    size = ("262144", "1024") if given.large else ("50257", "4096")
    cases = [(name, "head and loss") for name in (["mdlm", "udlm"] if given.large else [*SECTIONS, "decoder"])]
    if not given.large:
        cases += [(name, form) for name in ("mdlm", "udlm") for form in ("step", "step with logits")]
    lines = []
    for name, form in cases:
        command = [sys.executable, "-m", "benchmarks.head_loss", "--one", name, form, *size]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, seconds = map(float, done.stdout.split()[-2:])
        lines.append([name, form, f"{peak / 1e6:,.0f} MB", f"{seconds:.2f} s"])
    print(table(["objective", "part", "peak", "CPU time"], lines))


if __name__ == "__main__":
    main()
