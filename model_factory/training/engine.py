"""Training run: train a checked experiment into a run folder, from scratch or from its last checkpoint."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import DatasetConfig
from data_manager.rows.token_stream import TokenStream
from data_manager.tokenizers.from_run import with_tokenizer_of
from model.checkpoint import atomic_replace
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.task_registry import TASKS
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.training import distributed
from model_factory.training.ema import EMA
from model_factory.training.errors import FolderInUseError, UnfitError
from model_factory.training.network import TaskModule, build_task_module
from model_factory.training.row_order import Buckets
from model_factory.training.rows import RowCollator, Rows, first_rows, spread_batch
from model_factory.training.run.atomic_io import explain_write_errors, sync, write_text
from model_factory.training.run.checkpoints import checkpoint_folder
from model_factory.training.run.data_hashes import (
    count_lengths,
    find_changed_splits,
    hash_splits,
    read_split_hashes,
    write_lengths,
    write_split_hashes,
)
from model_factory.training.run.environment import (
    check_extras,
    check_machine,
    describe_environment,
    is_on_cpu,
    read_sessions,
    set_logger_variables,
)
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.logs import MetricsLog, SamplesLog
from model_factory.training.run.resume import (
    ResumePlan,
    check_steps_left,
    find_changes,
    is_saved_tokenizer,
    plan_resume,
    plan_share,
    record_changes,
    take_free_keys,
)
from model_factory.training.run.weights import write_weights
from model_factory.training.sharding import shard
from model_factory.training.share import Share, resolve_steps
from model_factory.training.speed.meter import create_meter
from model_factory.training.speed.progress import describe_run
from model_factory.training.splits import (
    Split,
    Splits,
    count_classes,
    describe_large_batch,
    fill_condition_scale,
    is_table,
    load_splits,
    select_dataset,
    select_splits,
    select_task,
)
from model_factory.training.stream import Data
from model_factory.yaml_config.errors import escape_controls
from model_factory.yaml_config.schema_version import add_version

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from model_factory.training.run.data_hashes import SplitRecord
    from model_factory.training.tasks.base import Batch
    from model_factory.training.trainer import FactoryTrainer


@dataclass(frozen=True)
class TrainResult:
    """Result of a run: optimiser steps done, whether they were done before, what ended the run early, and the time."""

    folder: RunFolder
    steps: int
    was_finished: bool = False
    stopped_early: bool = False
    stopped_by: signal.Signals | None = None
    seconds: float = 0.0


def train(config: ExperimentConfig, output: str | os.PathLike[str], *, resume: bool = False) -> TrainResult:
    """Train an experiment into a folder, or resume the run that it holds; under torchrun, call it in each process.

    A run continues with the settings of `config` from its last checkpoint on, as far as weights and tokenizer allow.

    Raises TrainingError (or a subclass from `model_factory.training.errors`), DataError, DeviceError.
    """
    config = add_default_sections(config)
    settings = training_settings(config)
    entry = select_dataset(config)
    check_extras(settings)
    run = RunFolder(output)
    plan = plan_resume(run, config, resume=resume, world=distributed.world_size())
    if plan.is_finished:
        return TrainResult(run, settings.max_steps, was_finished=True)
    if distributed.is_main():
        for change in plan.changes:
            print(escape_controls(f"note: {change}"), file=sys.stderr)

    lock: AbstractContextManager[None] = run.locked() if distributed.is_main() else nullcontext()
    with lock:
        if distributed.is_main() and plan_resume(run, config, resume=resume, world=distributed.world_size()) != plan:
            raise FolderInUseError(
                f"{run}: another process has trained in this folder in the meantime; check its content before you resume"
            )
        start = time.perf_counter()
        result = TrainingSession(config, entry, run, plan).run_to_end()
        return replace(result, seconds=time.perf_counter() - start)


def add_default_sections(config: ExperimentConfig) -> ExperimentConfig:
    """Add default `training` and `generation` sections; raise UnfitError if the model or the data sets are missing."""
    for name in ("model", "datasets"):
        if not getattr(config, name):
            raise UnfitError(f"training needs a section {name!r}; add it to the file")
    return config.model_copy(
        update={
            "training": config.training or TrainingConfig(),
            "generation": config.generation or GenerationConfig(),
        }
    )


def training_settings(config: ExperimentConfig) -> TrainingConfig:
    """Return the `training` section, which must be set."""
    assert config.training is not None
    return config.training


class TrainingSession:
    """Work of one process from data to trained weights; torch and transformers are imported here."""

    def __init__(self, config: ExperimentConfig, entry: DatasetConfig, run: RunFolder, plan: ResumePlan) -> None:
        self.config, self.run, self.plan = config, run, plan
        self.entry = entry if plan.checkpoint is None else with_tokenizer_of(entry, run.path)
        self.settings = training_settings(config)
        self.rows: dict[str, SplitRecord] | None = None
        self.has_new_data = False

    def run_to_end(self) -> TrainResult:
        """Load data, build the network, train it and write its weights."""
        share = plan_share(self.settings, self.plan, distributed.world_size(), distributed.rank())
        on_cpu = is_on_cpu(self.config.model and self.config.model.config)
        check_machine(self.settings, use_cpu=on_cpu)
        from model_factory.training.arguments import training_arguments  # imports transformers, which takes seconds

        arguments = training_arguments(self.settings, share, str(self.run), use_cpu=on_cpu)
        distributed.barrier()  # no process writes before all have read the folder
        with distributed.main_first():
            splits = self.load_data()
        self.has_new_data = distributed.broadcast_from_main(self.has_new_data)
        self.resolve(splits, share.rows)
        arguments.max_steps, arguments.warmup_steps = self.settings.max_steps, self.settings.warmup_steps
        trainer, network = self.build(splits, share, arguments)
        if distributed.is_main():
            self.prepare_run_folder(str(arguments.device), sum(value.numel() for value in network.parameters()))
            self.write_length_counts(splits)
        distributed.barrier()
        return self.finish(trainer, network, self.optimise(trainer))

    def load_data(self) -> Splits:
        """Load the splits; raise UnfitError if a resumed run had other rows, and its config names the same data."""
        loaded = load_splits(self.entry)
        DatasetManager.augmenter(self.entry)  # prepares the entries with noise, by one process first
        splits = select_splits(loaded, self.settings, self.entry.name)
        if splits.evaluation is None:
            self.check_missing_evaluation(", ".join(loaded))
        manifest = self.plan.checkpoint.manifest if self.plan.checkpoint else None
        if manifest is not None and not self.plan.changes_data and manifest.split_rows != (splits.train_rows or 0):
            raise UnfitError(
                f"{self.run} was trained on {manifest.split_rows} rows, and data set {self.entry.name!r} now has "
                f"{splits.train_rows}; restore its files, or give another --output"
            )
        if distributed.is_main():
            if note := describe_large_batch(splits.train, self.settings):
                print(f"note: {note}", file=sys.stderr)
            used = [name for name, rows in loaded.items() if splits.contains(rows)]
            self.check_data_hashes(loaded, sorted(used, key=lambda name: loaded[name] is not splits.train))
        return splits

    def check_data_hashes(self, loaded: Mapping[str, Split | TokenStream], used: Sequence[str]) -> None:
        """Hash the rows of a new run; on resume, compare them with the hashes in rows.json.

        A changed split is reported. Raises UnfitError if it is one in `used`, trained (the first) or evaluated on, unless the
        config names other data.
        """
        if self.plan.checkpoint is None or not self.run.rows.exists():
            self.rows = hash_splits(loaded)
            return
        if self.plan.changes_data:
            self.rows = hash_splits(loaded)
            known = [record["hash"] for record in read_split_hashes(self.run.rows).values()]
            chosen = any(change.key in ("training.dataset", "training.train_split") for change in self.plan.changes)
            chosen |= isinstance(loaded[used[0]], TokenStream) and self.plan.changes_entry(self.entry.name)
            self.has_new_data = chosen or used[0] not in self.rows or self.rows[used[0]]["hash"] not in known
            return
        changed = find_changed_splits(self.run.rows, loaded)
        if refused := [changed[name] for name in changed if name in used]:
            raise UnfitError(
                f"{self.run}: the files of data set {self.entry.name!r} have changed\n  " + "\n  ".join(refused) + "\n"
                "restore the files, or give another --output with training.init_from to start there from these weights"
            )
        for sentence in changed.values():
            print(f"note: {sentence}", file=sys.stderr)

    def check_missing_evaluation(self, names: str) -> None:
        """Print a note that there is no evaluation split; raise UnfitError if a setting depends on evaluations."""
        found = f"data set {self.entry.name!r} has the splits {names}, and no evaluation split"
        for key in ("early_stopping_patience", "load_best_model_at_end"):
            if getattr(self.settings, key):
                raise UnfitError(f"training.{key} needs evaluations: {found}; set training.eval_split to one of them")
        if distributed.is_main():
            print(f"note: {found}; set training.eval_split to evaluate on one of them", file=sys.stderr)

    def resolve(self, splits: Splits, step_rows: int) -> None:
        """Fill in what depends on the data: vocabulary, task, number of classes, scale of properties, number of steps.

        `step_rows` are the rows of an optimiser step. A resumed run keeps the model of its config.yml. Raises UnfitError
        if the data do not fit it.
        """
        task = select_task(self.config, splits.columns)
        update: dict[str, Any] = {"task": self.settings.task or task, "dataset": self.entry.name}
        if self.settings.num_labels is None and is_table(splits.train) and "labels" in splits.columns:
            update["num_labels"] = count_classes(splits.train, self.entry)
        then = None if self.plan.checkpoint is None else self.run.read_config()
        if then is not None and then.training is not None:
            update["num_labels"] = then.training.num_labels
            self.config = self.config.model_copy(update={"model": take_free_keys(then.model, self.config.model)})
        self.settings = resolve_steps(self.settings.model_copy(update=update), splits.train_rows, step_rows)
        self.fill_generation_defaults(TASKS.get(task).load().generation)
        alone = with_vocabulary(self.config.model_copy(update={"datasets": [self.entry]}))

        assert alone.model is not None
        model = fill_condition_scale(alone.model, splits.sample) if "cond" in splits.columns else alone.model
        self.config = self.config.model_copy(update={"model": model, "training": self.settings})
        if then is not None and self.plan.checkpoint is not None:
            changes = find_changes(then, self.config, self.run)
            if changes or self.plan.changes:
                check_steps_left(self.settings, self.plan.checkpoint, self.run)
            self.plan = replace(self.plan, changes=tuple(dict.fromkeys([*self.plan.changes, *changes])))

    def fill_generation_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Set the keys of `generation` that the file leaves out to the task's defaults."""
        assert self.config.generation is not None
        left_out = {key: value for key, value in defaults.items() if key not in self.config.generation.model_fields_set}
        generation = self.config.generation.model_copy(update=left_out)
        self.config = self.config.model_copy(update={"generation": generation})

    def build(self, splits: Splits, share: Share, arguments: "TrainingArguments") -> "tuple[FactoryTrainer, nn.Module]":
        """Build the Trainer and the network that it trains."""
        from model_factory.training.callbacks import RunCallback
        from model_factory.training.trainer import FactoryTrainer

        self.tokenizer = DatasetManager.tokenizer(self.entry)
        self.check_tokenizer()
        module = self.build_module(arguments)
        meter = create_meter(module, arguments.device, self.settings)
        if self.settings.fsdp:
            shard(module, module.network, bf16=self.settings.bf16)
        decay = self.settings.ema_decay
        average = None if decay is None else EMA(module.network, decay)
        augmenter = DatasetManager.augmenter(self.entry, self.settings.seed)
        train = splits.train if isinstance(splits.train, TokenStream) else Rows(splits.train, augmenter)
        limit = self.settings.max_eval_samples
        evaluation = None if splits.evaluation is None else first_rows(splits.evaluation, limit)
        offset = self.plan.row_offset(share.rows, has_new_data=self.has_new_data)
        own = DatasetManager.collator(self.entry, splits.train, fill=module.task.takes_fill)
        collate = RowCollator(own, self.settings.seed, share.rows, offset, module.task.host_draw(module.network))
        shown = self.make_sample_batch(evaluation or Rows(splits.sample), replace(collate, offset=0, draw=None))
        assert self.config.model is not None
        header = describe_run(self.config, module.network, splits, self.settings, share, offset)
        callback = RunCallback(self.run, self.settings, self.config.model.name, average, shown, header)
        buckets = mark = None
        if isinstance(splits.train, TokenStream):
            mark = self.plan.bookmark(has_new_data=self.has_new_data)
        elif getattr(self.entry, "bucketing", False):
            buckets = Buckets.of(splits.train, share.rows, offset)
        order = self.plan.row_order(has_new_data=self.has_new_data)
        data = Data(train, evaluation, collate, share, buckets, offset, mark, order)
        found = FactoryTrainer(module, arguments, self.settings, data, callback, average, meter, self.plan.step)
        return found, module.network

    def check_tokenizer(self) -> None:
        """Raise UnfitError if a run that continues on other data has another tokenizer, say one trained on these data."""
        if self.tokenizer is None or not self.plan.changes_data:
            return
        if is_saved_tokenizer(self.tokenizer, self.run.tokenizer):
            return
        raise UnfitError(
            f"{self.run}: the tokenizer of data set {self.entry.name!r} has other tokens than the one that the run was trained "
            f"with, as it depends on the data; use the run's own: tokenizer: {{run: {self.run}}}"
        )

    def build_module(self, arguments: "TrainingArguments") -> "TaskModule":
        """Build the network with its task, initial weights and adapters, on the device of `arguments`."""
        is_resumed = self.plan.checkpoint is not None
        module = build_task_module(self.config, self.settings, self.tokenizer, is_resumed=is_resumed)
        return module.to(arguments.device)

    def make_sample_batch(self, rows: "Rows", collate: "RowCollator") -> "Callable[[], Batch]":
        """Return a function that collates evenly spaced rows of the split, one for each sample to show."""
        assert self.config.generation is not None
        least = TASKS.get(str(self.settings.task_name)).load().rows_shown
        return spread_batch(rows, max(self.config.generation.num_samples, least), collate)

    def prepare_run_folder(self, device: str, parameters: int) -> None:
        """Write the files of a new run, with its number of parameters; on resume, drop log entries of steps that will be repeated."""
        step = self.plan.step
        with explain_write_errors("the run folder", self.run.path):
            if self.plan.checkpoint is None:
                self.run.write_config(self.config)
                if self.tokenizer is not None:
                    self.tokenizer.save(self.run.tokenizer)
            elif self.plan.changes:
                record_changes(self.run, self.config, self.plan.changes, step)
                self.run.write_config(self.config)
                self.run.weights.unlink(missing_ok=True)  # the checkpoint has them, until the run is finished again
            if self.rows is not None:
                write_split_hashes(self.run.rows, self.rows)
            MetricsLog(self.run.metrics).drop_after(step)
            SamplesLog(self.run.samples).drop_after(step)
            earlier = read_sessions(self.run.environment) if step else []
            session = describe_environment(device, distributed.world_size(), step) | {"parameters": parameters}
            write_text(
                self.run.environment, json.dumps(add_version({"sessions": [*earlier, session]}), indent=1) + "\n"
            )

    def write_length_counts(self, splits: Splits) -> None:
        """Write the lengths of documents, from which a diffusion model draws the lengths of its samples."""
        if self.settings.task_name != "diffusion" or not getattr(self.entry, "document_rows", False):
            return
        with explain_write_errors("lengths", self.run.lengths):
            write_lengths(self.run.lengths, count_lengths(splits.sample))

    def optimise(self, trainer: "FactoryTrainer") -> bool:
        """Run the training loop; return True if it stopped early."""
        from model_factory.training.callbacks import is_stopped_early

        checkpoint = self.plan.checkpoint
        if checkpoint is not None:
            checkpoint.check_state()
        if checkpoint is not None and is_stopped_early(checkpoint.history(), self.settings):
            trainer.restore(checkpoint)
            return True
        set_logger_variables(self.settings, self.run.path)
        with trainer.run_callback.grace:
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
            except Exception as error:
                trainer.save_after_error(error)
                raise
        return bool(trainer.state.global_step < self.settings.max_steps)

    def finish(self, trainer: "FactoryTrainer", network: "nn.Module", stopped_early: bool) -> TrainResult:
        """Write the final weights (best, averaged or last), adapters merged; none if a signal stopped the run."""
        from model_factory.training.callbacks import best_step

        if trainer.run_callback.is_stop_requested:
            return TrainResult(
                self.run, trainer.state.global_step, stopped_by=trainer.run_callback.grace.received or signal.SIGTERM
            )
        best = best_step(trainer.state.log_history) if self.settings.load_best_model_at_end else None
        if best is not None and best != trainer.state.global_step:
            trainer.restore_weights(checkpoint_folder(self.run.path, best))
        tensors = trainer.final_weights()
        if distributed.is_main():
            with explain_write_errors("the weights", self.run.weights):
                with atomic_replace(self.run.weights) as temporary:
                    write_weights(temporary, tensors)
                sync(self.run.path)
        distributed.barrier()
        return TrainResult(self.run, trainer.state.global_step, stopped_early=stopped_early)
