"""One training step on a few rows, before a run: shapes, adapters and batches that do not work are found here.

`parse_args.py --build` and a new run of `train.py` call it for a file that trains a model on data that this machine has.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.rows.lengths import row_lengths
from data_manager.speech.types import LhotseDatasetConfig
from data_manager.text.table_types import HubDatasetConfig
from model_factory.experiment.config import ExperimentConfig
from model_factory.training.engine import TrainingSession, add_default_sections, training_settings
from model_factory.training.rows import RowCollator, Rows
from model_factory.training.run.environment import check_machine, is_on_cpu
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.resume import ResumePlan
from model_factory.training.splits import load_splits, select_dataset, select_splits

ROWS = 2


@dataclass(frozen=True)
class Trial:
    """Result of one training step."""

    task: str
    rows: int
    loss: float
    seconds: float
    train_rows: int | None
    steps_per_epoch: float | None
    """None for a stream, as `train_rows`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        return dict(vars(self))

    def text(self) -> str:
        """Return two lines for the terminal."""
        step = f"one step of {self.task} on {self.rows} rows: loss {self.loss:.4g} in {self.seconds:.2f} s\n"
        if self.train_rows is None:
            return f"{step}the rows are a stream, and their number is unknown"
        return f"{step}an epoch: {self.train_rows:,} rows in {self.steps_per_epoch:,.4g} steps"


def can_try(config: ExperimentConfig) -> bool:
    """Return True if a file trains a model on data that can be loaded without a download."""
    if config.model is None or config.training is None or not config.datasets:
        return False
    entry = select_dataset(config)
    return all(map(_is_local, (entry, *getattr(entry, "entries", ()))))


def _is_local(entry: DatasetConfig) -> bool:
    return not isinstance(entry, LhotseDatasetConfig | HubDatasetConfig)


def try_step(config: ExperimentConfig) -> Trial:
    """Build the network with its task and adapters, and run one training step on the first and the longest rows.

    Nothing is written but what is prepared from the data. The loss may be NaN or infinite: a run traces that to its rows.
    Raises TrainingError, DataError, and ValueError of the model.
    """
    import torch

    from model_factory.training.callbacks import on_device

    start = time.perf_counter()
    config = add_default_sections(config)
    entry, settings = select_dataset(config), training_settings(config)
    assert config.model is not None
    on_cpu = is_on_cpu(config.model.config)
    check_machine(settings.model_copy(update={"fsdp": False}), use_cpu=on_cpu)
    session = TrainingSession(config, entry, RunFolder(Path("runs")), ResumePlan())
    splits = select_splits(load_splits(entry), settings, entry.name)
    step_rows = settings.batch_size * settings.gradient_accumulation_steps
    session.resolve(splits, step_rows)
    session.settings = session.settings.model_copy(update={"fsdp": False})
    session.tokenizer = DatasetManager.tokenizer(entry)
    accelerator = None if on_cpu else torch.accelerator.current_accelerator()
    module = session.build_module(SimpleNamespace(device=accelerator or torch.device("cpu"))).train()
    rows = _chosen_rows(splits.sample)
    own = DatasetManager.collator(entry, splits.train, fill=module.task.takes_fill)
    collate = RowCollator(own, settings.seed, len(rows))
    batch = collate(Rows(splits.sample).__getitems__([(row, row) for row in rows]))
    loss = module(on_device(batch, next(module.parameters()).device))["loss"]
    loss.backward()
    seconds = time.perf_counter() - start
    count = splits.train_rows
    epoch = None if count is None else count / step_rows
    return Trial(str(session.settings.task_name), len(rows), float(loss.detach()), seconds, count, epoch)


def _chosen_rows(rows: Any) -> list[int]:
    """Return the indices of the first rows and, of a table, that of the longest."""
    chosen = list(range(min(ROWS, len(rows))))
    if hasattr(rows, "column_names"):
        chosen += [int(lengths.argmax()) for lengths in row_lengths(rows).values()]
    return list(dict.fromkeys(chosen))
