"""A whole run: from a checked experiment and a folder to a trained model in it."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_manager.dataset_types import DatasetConfig
from data_manager.tokenizer_base import Tokenizer
from experiment.config import ExperimentConfig
from experiment.vocabulary import with_vocabulary
from training.checkpoints import checkpoint_folder
from training.config_types import GenerationConfig, TrainingConfig
from training.errors import FolderInUseError, RunFolderError, UnfitError
from training.extras import check_extras
from training.registry import TASKS
from training.resume import Start, compare, plan_start, share_of_step
from training.run_folder import RunFolder
from training.share import Share
from training.splits import Splits, choose_splits, chosen_dataset, chosen_task
from yaml_config.paths import from_home


@dataclass(frozen=True)
class Outcome:
    """What became of a run: the steps that it has now, whether it had them before, and what ended it before its time."""

    folder: RunFolder
    steps: int
    was_finished: bool = False
    stopped_early: bool = False
    stopped_by: signal.Signals | None = None


def train(config: ExperimentConfig, output: str | os.PathLike[str], *, resume: bool = False) -> Outcome:
    """Train what an experiment describes into a folder, or go on with what is there; in each process of torchrun.

    Raises TrainingError (and its kinds in `training.errors`), DataError, DeviceError.
    """
    config = with_defaults(config)
    settings = settings_of(config)
    entry = chosen_dataset(config)
    check_extras(settings)
    run = RunFolder(output)
    start = plan_start(run, config, resume=resume)
    if start.is_finished:
        return Outcome(run, settings.max_steps, was_finished=True)
    from training import distributed

    lock: AbstractContextManager[None] = run.locked() if distributed.is_main() else nullcontext()
    with lock:
        if distributed.is_main() and plan_start(run, config, resume=resume) != start:
            raise FolderInUseError(
                f"{run}: another process has trained in this folder meanwhile; look at what is there"
            )
        return _Session(config, entry, run, start).run_to_end()


def with_defaults(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the sections `training` and `generation`; raises UnfitError without a model or data."""
    for name in ("model", "datasets"):
        if not getattr(config, name):
            raise UnfitError(f"training needs a section {name!r}, and the file has none")
    return config.model_copy(
        update={
            "training": config.training or TrainingConfig(),
            "generation": config.generation or GenerationConfig(),
        }
    )


def settings_of(config: ExperimentConfig) -> TrainingConfig:
    """The `training` section of an experiment that has one."""
    assert config.training is not None
    return config.training


class _Session:
    """One process's work from data to trained weights; torch and transformers are imported here."""

    def __init__(self, config: ExperimentConfig, entry: DatasetConfig, run: RunFolder, start: Start) -> None:
        self.config, self.entry, self.run, self.start = config, entry, run, start
        self.settings = settings_of(config)
        self.rows: dict[str, dict[str, Any]] | None = None

    def run_to_end(self) -> Outcome:
        from training import distributed
        from training.machine import check_machine, is_on_cpu

        share = share_of_step(self.settings, self.start.checkpoint, distributed.world_size(), distributed.rank())
        on_cpu = is_on_cpu(self.config.model and self.config.model.config)
        check_machine(self.settings, use_cpu=on_cpu)
        from training.arguments import training_arguments  # transformers, which takes seconds

        _quieten()
        arguments = training_arguments(self.settings, share, str(self.run), use_cpu=on_cpu)
        distributed.barrier()  # nobody writes before all have seen what was there
        with distributed.main_first():
            splits = self.load_data()
        self.resolve(splits)
        trainer, network = self.build(splits, share, arguments)
        if distributed.is_main():
            self.prepare_folder(str(arguments.device))
            self.keep_lengths(splits.train)
        distributed.barrier()
        return self.finish(trainer, network, self.optimise(trainer))

    def load_data(self) -> Splits:
        from data_manager.data_manager import DatasetManager
        from training import distributed

        loaded = DatasetManager.load_datasets([self.entry])[self.entry.name]
        splits = choose_splits(loaded, self.settings, self.entry.name)
        if splits.evaluation is None:
            self.without_evaluation(", ".join(loaded))
        manifest = self.start.checkpoint.manifest if self.start.checkpoint else None
        if manifest is not None and manifest.split_rows != len(splits.train):
            raise UnfitError(
                f"{self.run} was trained on {manifest.split_rows} rows, and data set {self.entry.name!r} now has "
                f"{len(splits.train)}; give it back what it had, or give another --output"
            )
        if distributed.is_main():
            self.know_rows(loaded, [name for name, rows in loaded.items() if splits.holds(rows)])
        return splits

    def know_rows(self, loaded: Mapping[str, Any], used: Sequence[str]) -> None:
        """Hash the rows of a run that begins; of one that goes on, say which have changed.

        Raises UnfitError where those that it is trained or evaluated on have.
        """
        from training.known_rows import changed_rows, describe_rows

        if self.start.checkpoint is None or not self.run.rows.exists():
            self.rows = describe_rows(loaded)
            return
        told = changed_rows(self.run.rows, loaded)
        if refused := [told[name] for name in told if name in used]:
            raise UnfitError(
                f"{self.run}: the files of data set {self.entry.name!r} have changed\n  " + "\n  ".join(refused) + "\n"
                "give it back what it had, or another --output with training.init_from to begin there with these weights"
            )
        for sentence in told.values():
            print(f"note: {sentence}", file=sys.stderr)

    def without_evaluation(self, names: str) -> None:
        """Say that nothing is evaluated; raises UnfitError where evaluations are to decide something."""
        from training import distributed

        told = f"data set {self.entry.name!r} has the splits {names}, and none to evaluate on"
        for key in ("early_stopping_patience", "load_best_model_at_end"):
            if getattr(self.settings, key):
                raise UnfitError(f"training.{key} needs evaluations: {told}; name one by training.eval_split")
        if distributed.is_main():
            print(f"note: {told}; training.eval_split names one", file=sys.stderr)

    def resolve(self, splits: Splits) -> None:
        """Fill in what the data decide: vocabulary, task, number of classes, scale of properties; compare once more."""
        update: dict[str, Any] = {"task": chosen_task(self.config, splits.columns), "dataset": self.entry.name}
        if self.settings.num_labels is None and "labels" in splits.columns:
            named = getattr(self.entry, "classes", None)
            update["num_labels"] = len(named) if named else max(2, int(max(splits.train["labels"])) + 1)
        self.settings = self.settings.model_copy(update=update)
        self.fit_generation(TASKS.get(update["task"]).load().generation)
        alone = with_vocabulary(self.config.model_copy(update={"datasets": [self.entry]}))
        from training.condition_scale import with_condition_scale

        assert alone.model is not None
        model = with_condition_scale(alone.model, splits.train)
        self.config = self.config.model_copy(update={"model": model, "training": self.settings})
        if self.start.checkpoint is not None:
            compare(self.run.read_config(), self.config, self.run)

    def fit_generation(self, defaults: Mapping[str, Any]) -> None:
        """Fill in what the file does not say of generation as the task has it."""
        assert self.config.generation is not None
        left_out = {key: value for key, value in defaults.items() if key not in self.config.generation.model_fields_set}
        generation = self.config.generation.model_copy(update=left_out)
        self.config = self.config.model_copy(update={"generation": generation})

    def build(self, splits: Splits, share: Share, arguments: Any) -> tuple[Any, Any]:
        """The Trainer with everything that it needs, and the network inside."""
        from data_manager.data_manager import DatasetManager
        from training.averaging import Average
        from training.callbacks import Flow
        from training.rows import RowCollator, Rows
        from training.trainer import Data, FactoryTrainer

        self.tokenizer = DatasetManager.tokenizer(self.entry)
        module = self.build_module(arguments)
        decay = self.settings.ema_decay
        average = None if decay is None else Average(module.network, decay)
        train, evaluation = Rows(splits.train), self.evaluation_rows(splits)
        collate = RowCollator(DatasetManager.collator(self.entry, splits.train), self.settings.seed, share.rows)
        shown = self.sample_batch(evaluation or train, collate)
        assert self.config.model is not None
        flow = Flow(self.run, self.settings, self.config.model.name, average, shown)
        step = self.start.checkpoint.step if self.start.checkpoint else 0
        data = Data(train, evaluation, collate, share, self.buckets(splits.train, share))
        return FactoryTrainer(module, arguments, self.settings, data, flow, average, step), module.network

    def buckets(self, rows: Any, share: Share) -> Any:
        """What puts rows of like lengths into one step, where the data set asks for it."""
        if not getattr(self.entry, "bucketing", False):
            return None
        import torch

        from data_manager.row_lengths import row_lengths
        from training.rows import Buckets

        return Buckets(torch.from_numpy(sum(row_lengths(rows).values())), share.rows)

    def build_module(self, arguments: Any) -> Any:
        """The network with its task, its first weights and its adapters, on the device of `arguments`."""
        import torch

        from training.arguments import shard_by_layer
        from training.module import TaskModule
        from training.network import build_network

        torch.manual_seed(self.settings.seed)
        network, task = build_network(self.config, self.tokenizer)
        if self.settings.init_from is not None and self.start.checkpoint is None:
            self.take_weights(network, from_home(self.settings.init_from))
        module = TaskModule(network, task)
        if self.settings.lora is not None:
            from training.lora import add_adapters

            add_adapters(module, self.settings.lora)
        if self.settings.fsdp:
            shard_by_layer(arguments, network)
        return module.to(arguments.device)

    def take_weights(self, network: Any, folder: Path) -> None:
        """Begin with another run's or model's weights; raises RunFolderError where they do not fit."""
        from training.weights import WEIGHTS, load_weights

        if not folder.is_dir():
            raise RunFolderError(f"training.init_from: {folder} is no folder")
        load_weights(network, folder / WEIGHTS, "this experiment")
        theirs = folder / "tokenizer"
        if self.tokenizer is not None and theirs.is_dir():
            from data_manager.tokenizer_load import load_tokenizer

            if _first_tokens(load_tokenizer(theirs)) != _first_tokens(self.tokenizer):
                raise UnfitError(
                    f"training.init_from: {theirs} gives tokens other ids than the tokenizer of data set "
                    f"{self.entry.name!r}; give the data set that tokenizer"
                )

    def evaluation_rows(self, splits: Splits) -> Any:
        from training.rows import Rows

        data, limit = splits.evaluation, self.settings.max_eval_samples
        if data is None:
            return None
        if limit is not None and limit < len(data):
            data = data.select(range(limit)) if hasattr(data, "column_names") else list(data)[:limit]
        return Rows(data)

    def sample_batch(self, rows: Any, collate: Any) -> Callable[[], dict[str, Any]]:
        """A batch of rows from all over the split, as many as there are samples to show."""
        assert self.config.generation is not None
        assert self.settings.task is not None
        fewest = TASKS.get(self.settings.task).load().rows_shown
        count = min(max(self.config.generation.num_samples, fewest), len(rows))
        indices = [number * len(rows) // count for number in range(count)]

        def batch() -> dict[str, Any]:
            found: dict[str, Any] = collate(rows.__getitems__([(index, index) for index in indices]))
            return found

        return batch

    def prepare_folder(self, device: str) -> None:
        """Write what a folder has from its beginning, and take back what the next steps will write again."""
        from training import distributed
        from training.durable import explained, write_text
        from training.environment import describe_environment, sessions
        from training.known_rows import write_rows
        from training.metrics_log import MetricsLog
        from training.samples_log import SamplesLog
        from yaml_config.schema_version import stamped

        step = self.start.checkpoint.step if self.start.checkpoint else 0
        with explained("the run folder", self.run.path):
            if self.start.checkpoint is None:
                self.run.write_config(self.config)
                if self.tokenizer is not None:
                    self.tokenizer.save(self.run.tokenizer)
            if self.rows is not None:
                write_rows(self.run.rows, self.rows)
            MetricsLog(self.run.metrics).keep_until(step)
            SamplesLog(self.run.samples).keep_until(step)
            before = sessions(self.run.environment) if step else []
            session = describe_environment(device, distributed.world_size(), step)
            write_text(self.run.environment, json.dumps(stamped({"sessions": [*before, session]}), indent=1) + "\n")

    def keep_lengths(self, rows: Any) -> None:
        """Write how long whole documents are, from which a diffusion model's samples take their lengths."""
        if self.settings.task != "diffusion" or getattr(self.entry, "layout", None) != "whole":
            return
        from training.durable import explained
        from training.length_counts import count_lengths, write_lengths

        with explained("lengths", self.run.lengths):
            write_lengths(self.run.lengths, count_lengths(rows))

    def optimise(self, trainer: Any) -> bool:
        """Train to the end; whether it was an early one."""
        from training.callbacks import is_stopped_early

        checkpoint = self.start.checkpoint
        if checkpoint is not None:
            checkpoint.check_state()
        if checkpoint is not None and is_stopped_early(checkpoint.history(), self.settings):
            trainer.restore(checkpoint)
            return True
        os.environ.setdefault("WANDB_DIR", str(self.run))  # its files belong into the run folder
        with trainer.flow.grace:
            trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
        return bool(trainer.state.global_step < self.settings.max_steps)

    def finish(self, trainer: Any, network: Any, stopped_early: bool) -> Outcome:
        """Write the weights: the best, the averaged or the last ones, adapters merged."""
        from model.checkpoint import replacing
        from training import distributed
        from training.callbacks import best_step
        from training.durable import explained, sync
        from training.weights import write_weights

        if trainer.flow.is_told_to_stop:
            return Outcome(
                self.run, trainer.state.global_step, stopped_by=trainer.flow.grace.received or signal.SIGTERM
            )
        best = best_step(trainer.state.log_history) if self.settings.load_best_model_at_end else None
        if best is not None and best != trainer.state.global_step:
            trainer.restore_weights(checkpoint_folder(self.run.path, best))
        tensors = trainer.final_weights()
        if distributed.is_main():
            with explained("the weights", self.run.weights):
                with replacing(self.run.weights) as temporary:
                    write_weights(temporary, tensors)
                sync(self.run.path)
        distributed.barrier()
        return Outcome(self.run, trainer.state.global_step, stopped_early=stopped_early)


def _first_tokens(tokenizer: Tokenizer, count: int = 5000) -> list[str]:
    """Texts of the first ids, by which two tokenizers are told apart."""
    return [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, count))]


def _quieten() -> None:
    """Libraries say what went wrong, and nothing else."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
