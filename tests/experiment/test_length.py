"""Length of a training: printed configs are read back with the same meaning."""

from pathlib import Path

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.experiment.print_config import print_config
from model_factory.training.share import resolve_steps

FILE = "model: {model_type: decoder, decoder: {d_model: 8, num_layers: 1, num_heads: 2, vocab_size: 9}}\n"


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ("{num_train_epochs: 20}", (2500, 0)),
        ("{num_train_epochs: 20, max_steps: 1000}", (1000, 0)),
        ("{num_train_epochs: 20, warmup_ratio: 0.1}", (2500, 250)),
        ("{max_steps: 50, warmup_ratio: 0.1}", (50, 5)),
        ("{batch_size: 8}", (1000, 0)),
    ],
)
def test_printed_config_has_the_same_length(training: str, steps: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text(f"{FILE}training: {training}\n")
    for _ in range(2):
        experiment = read_experiment(path)
        assert experiment.config.training is not None
        found = resolve_steps(experiment.config.training, rows=1000, step_rows=8)
        assert (found.max_steps, found.warmup_steps) == steps
        path.write_text(print_config(experiment))
