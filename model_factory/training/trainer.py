"""transformers' Trainer with our batches, losses and checkpoints; loop, optimisers and devices are the Trainer's.

Overridden are the source of batches (`model_factory.training.rows`), the loss (a mean over all items of a step), evaluation (one
weighted mean) and checkpoints (written atomically, read back strictly).
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl, TrainingArguments

from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.arguments import keep_settings
from model_factory.training.callbacks import RunCallback, best_step, prints_progress, upload
from model_factory.training.distributed import (
    all_reduce_sum,
    barrier,
    gather_from_all,
    is_main,
    preserve_rng_state,
    rank,
    set_rng_state,
    world_size,
)
from model_factory.training.ema import EMA
from model_factory.training.errors import NonFiniteError, WriteError
from model_factory.training.log_window import LogWindow, accumulate, read_log_window, reduce_means, write_log_windows
from model_factory.training.lora import merge_adapters
from model_factory.training.nan_check import Gradients, NanCheck, name_rows
from model_factory.training.network import TaskModule, load_ema
from model_factory.training.noise import mix_seed
from model_factory.training.rows import EvalBatches, RowCollator, Rows, build_row_loader
from model_factory.training.run import atomic_io, checkpoints
from model_factory.training.run.weights import WEIGHTS, load_weights, named_weights, write_weights
from model_factory.training.sharding import gather, load_optimizer, load_weights_into_shards, reshard, save_optimizer
from model_factory.training.speed.meter import SpeedMeter, count_tokens
from model_factory.training.stream import BOOKMARK, Data, StreamBatches
from model_factory.training.tasks.base import Batch

_DROPOUT = 21


class FactoryTrainer(Trainer):  # type: ignore[misc]
    """Trainer of a `TaskModule`; `start_step` is the step of the checkpoint that it resumes from."""

    loss_is_scaled_for_ga = True  # by compute_loss, over all items of a step
    control: TrainerControl
    lr_scheduler: LRScheduler | None

    def __init__(
        self,
        module: TaskModule,
        args: TrainingArguments,
        settings: TrainingConfig,
        data: Data,
        run_callback: RunCallback,
        average: EMA | None,
        meter: SpeedMeter,
        start_step: int = 0,
    ) -> None:
        self.module, self.settings, self.data, self.run_callback = module, settings, data, run_callback
        self.average, self.meter, self.start_step = average, meter, start_step
        self.measured: dict[str, Tensor] = {}
        self.step_window: LogWindow | None = None
        self.pins = args.dataloader_pin_memory and args.device.type == "cuda"
        self.bookmark = self.step_bookmark = data.bookmark
        self.has_evaluated, self.tokens = False, 0
        self.check_nan = NanCheck(Path(args.output_dir))
        super().__init__(model=module, args=args, eval_dataset=[])
        self.is_distributed_loading_by_transformers = settings.fsdp  # sharded by us, so that it is not wrapped again
        for callback in [callback for callback in self.callback_handler.callbacks if prints_progress(callback)]:
            self.remove_callback(callback)
        self.add_callback(run_callback)
        self._seed_dropout()

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Create the learning rate schedule: the task's, or transformers' over all steps."""
        rates = self.module.task.rates()
        if rates is None or self.lr_scheduler is not None:
            usual: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
            return usual
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rates)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- batches and loss ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return batches from `start_step` on; the Trainer counts them as one epoch of max_steps."""
        given = {"workers": self.args.dataloader_num_workers, "pin": self.pins}
        self.train_loader = self.data.loader(self.start_step, self.args.max_steps, **given)
        return self.train_loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """Return the parts of a step and the number of their items, a scalar; keep the bookmark of a stream."""
        parts, count = super().get_batch_samples(self.meter.timed(epoch_iterator), num_batches, device)
        self.meter.count_flops(parts)
        for part in parts:
            self.bookmark = part.pop(BOOKMARK, None)
        return parts, count

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        """Count the items of a step over all its parts and processes, and its tokens in this process."""
        self.tokens += sum(map(count_tokens, batch_samples))
        own = torch.stack([self.module.task.weight(batch) for batch in batch_samples]).sum()
        filled = torch.full((), own.item(), dtype=own.dtype, device=device)  # which does not wait, as a copy would
        return all_reduce_sum(filled).clamp(min=1)

    def _prepare_input(self, data: Any) -> Any:
        """Copy tensors to the device, without waiting if they are pinned."""
        return upload(data, self.args.device) if isinstance(data, Tensor) else super()._prepare_input(data)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this part's contribution to the mean over the step, a scalar.

        It is multiplied by the number of processes, because DDP averages gradients over processes.
        """
        assert num_items_in_batch is not None
        with name_rows(inputs["noise"].index, self.state.global_step + 1, "training"):
            outputs = model(inputs)
        weight = self.module.task.weight(inputs)
        share = weight * world_size() / num_items_in_batch
        for name, value in outputs.items():
            if name != "loss":
                accumulate(self.measured, name, value.detach(), weight)
        loss: Tensor = outputs["loss"] * share
        self.check_nan.add(loss, inputs["noise"].index)
        return loss

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Sum sharded gradients over processes after each part of a step, so that no process holds whole ones."""
        return nullcontext()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float:
        return self._check_and_clip(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        return self._check_and_clip(model) if grad_norm is None else grad_norm

    def _check_and_clip(self, model: nn.Module, limit: float = float("inf")) -> Tensor | float:
        """Check the gradients for NaN, clip them to norm `limit` and return their norm before clipping.

        Scaled gradients are clipped by accelerate in one call; a gradient scaler skips steps with non-finite gradients by
        itself.
        """
        step = self.state.global_step + 1
        if self.accelerator.scaler is not None:
            scaled: Tensor = self.accelerator.clip_grad_norm_(model.parameters(), limit)
            self.check_nan(step, None)
            return scaled
        trained = {name: value for name, value in self.module.named_parameters() if value.grad is not None}
        gradients = Gradients(trained, self.optimizer.optimizer)
        self.check_nan(step, gradients)
        if math.isfinite(limit):
            clip_grads_with_norm_(trained.values(), limit, gradients.norm)
        return gradients.norm

    # ---- evaluation and metrics ----

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Compute and log the mean loss and metrics of the evaluation split."""
        with preserve_rng_state(self.args.device), torch.no_grad(), self.averaged():
            self.model.eval()
            means = {} if self.data.evaluation is None else self._measure(self.data.evaluation)
            metrics = {f"eval_{name}": value for name, value in means.items()}
            if metrics:
                self.log(dict(metrics))
        self.has_evaluated = True
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure(self, rows: Rows) -> dict[str, float]:
        """Compute weighted means over all processes' rows; the noise is that of step 0, equal in every evaluation."""
        collate = RowCollator(self.data.collate.collate, self.settings.seed, max(len(rows), 1))
        totals: dict[str, Tensor] = {}
        last: Batch | None = None
        for batch in build_row_loader(rows, EvalBatches(len(rows), self.data.share), collate, pin=self.pins):
            if not batch and not (self.settings.fsdp and last):
                continue
            inputs = last if not batch else self._prepare_inputs(batch)
            assert inputs is not None
            weight = self.module.task.weight(inputs) * bool(
                batch
            )  # under FSDP, all processes must run the same number of forward passes
            with name_rows(inputs["noise"].index, self.state.global_step, "evaluation"):
                outputs = self.model(inputs)
            for name, value in outputs.items():
                accumulate(totals, name, value, weight)
            last = inputs
        reshard(self.module)
        return reduce_means(totals, self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line of metrics."""
        if "train_runtime" in logs:  # the Trainer's summary, which covers the last session only
            return
        if "loss" in logs:
            logs |= reduce_means(self.measured, self.args.device)
            self.measured = {}
            if tokens := int(all_reduce_sum(torch.tensor(self.tokens, device=self.args.device))):
                logs["tokens"] = tokens
            logs |= self.meter.measure(self.state.global_step, tokens)
        logs["epoch"] = self.data.epoch(self.state.global_step, self.bookmark)
        if any(name.startswith("eval_") for name in logs):  # read by best_step and early stopping
            self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def _run_epoch(self, *args: object, resume_from_checkpoint: str | None, **options: object) -> None:
        """Restore the log window of a checkpoint, which the Trainer sets to zero, and train."""
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            self._set_log_window(read_log_window(folder, rank(), world_size(), self.args.device))
        self.meter.begin(self.state.global_step, self.tokens * world_size())
        try:
            super()._run_epoch(*args, resume_from_checkpoint=resume_from_checkpoint, **options)
        finally:
            if isinstance(self.train_loader.dataset, StreamBatches):
                self.train_loader.dataset.close()

    def _log_window(self) -> LogWindow:
        """Return this process's sums since the last logged step."""
        return LogWindow(self._globalstep_last_logged, self._tr_loss.clone(), dict(self.measured), self.tokens)

    def _set_log_window(self, window: LogWindow | None) -> None:
        if window is not None:
            self._globalstep_last_logged, self._tr_loss = window.last_logged, window.loss.clone()
            self.measured, self.tokens = dict(window.measured), window.tokens

    def averaged(self) -> AbstractContextManager[None]:
        """Use the EMA weights inside the block, if there is an EMA."""
        return nullcontext() if self.average is None else self.average.applied()

    # ---- checkpoints ----

    def _maybe_log_save_evaluate(self, *args: object, **kwargs: object) -> None:
        """Log, evaluate and save; write samples and curves last, so that their failure loses no checkpoint."""
        since = time.perf_counter()
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.check_nan.settle()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.has_evaluated and is_main():
            self.run_callback.write_samples_and_curves(self.module, self.state.global_step)
        self.has_evaluated, self.step_window, self.step_bookmark = False, self._log_window(), self.bookmark
        self.meter.leave_out(since)

    def save_after_error(self, error: Exception) -> None:
        """Save a checkpoint of the last completed step after an error in the next one, and print a note.

        Nothing is saved after a NaN or a write error, and nothing with several processes, of which some may have ended.
        """
        run, step = Path(self.args.output_dir), self.state.global_step
        has_no_new_step = step <= self.start_step or checkpoints.checkpoint_folder(run, step).exists()
        if has_no_new_step or world_size() > 1 or isinstance(error, NonFiniteError | WriteError):
            return
        set_rng_state(self.run_callback.rng_state)
        self._set_log_window(self.step_window)  # without the parts of the step that failed
        self.bookmark = self.step_bookmark
        try:
            self._save_checkpoint(self.model)
        except Exception as failure:
            print(f"note: no checkpoint of step {step:,} could be saved after the error: {failure}", file=sys.stderr)
            return
        print(f"note: a checkpoint of step {step:,} was saved; --resume continues from it", file=sys.stderr)

    def _save_checkpoint(self, model: nn.Module, trial: object = None) -> None:
        run, step = Path(self.args.output_dir), self.state.global_step
        staging = checkpoints.staging_folder(run, step)
        with atomic_io.explain_write_errors(f"checkpoint {step}", run):
            try:
                self._write_checkpoint(staging)
                if is_main():
                    atomic_io.put_in_place(staging, checkpoints.checkpoint_folder(run, step))
            except BaseException:
                if is_main():
                    shutil.rmtree(staging, ignore_errors=True)
                raise
        barrier()
        if is_main():
            best = best_step(self.state.log_history) if self.settings.load_best_model_at_end else None
            checkpoints.rotate(run, self.settings.save_total_limit, best)

    def _write_checkpoint(self, staging: Path) -> None:
        if is_main():
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        barrier()
        tensors = self.whole_weights()
        averages = {} if self.average is None else gather(self.module.network, self.average.values)
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))
        self._save_rng_state(str(staging))
        windows = gather_from_all(self._log_window().as_dict())
        if is_main():
            write_log_windows(staging, windows)
            write_weights(staging / WEIGHTS, tensors)
            if self.average is not None:
                write_weights(staging / checkpoints.AVERAGE, averages)
            state = json.dumps(asdict(self.state), indent=1, sort_keys=True)
            (staging / checkpoints.STATE).write_text(state + "\n", encoding="utf-8")
            if self.bookmark is not None:
                checkpoints.write_bookmark(staging, self.bookmark)
        barrier()
        if is_main():
            checkpoints.write_manifest(
                staging,
                step=self.state.global_step,
                world=world_size(),
                batch_rows=self.data.share.rows,
                split_rows=self.data.split_rows,
                row_offset=self.data.offset,
                row_order=self.data.order_version,
            )

    def whole_weights(self) -> dict[str, Tensor]:
        """Return the network's weights by name, each of any shape, gathered if they are sharded."""
        tensors = named_weights(self.module.network)
        return gather(self.module.network, tensors) if self.settings.fsdp else tensors

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.settings.fsdp:
            assert self.lr_scheduler is not None
            save_optimizer(self.module, self.optimizer.optimizer, self.lr_scheduler, Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if self.settings.fsdp:
            load_weights_into_shards(self.module.network, folder / WEIGHTS)
        else:
            load_weights(self.module.network, folder / WEIGHTS, "config.yml")
        if self.average is not None:
            load_ema(self.average, folder)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Restore weights and history of a checkpoint that needs no further training."""
        self.restore_weights(checkpoint.folder)
        self.state.log_history, self.state.global_step = checkpoint.history(), checkpoint.step

    def restore_weights(self, folder: Path) -> None:
        """Load the weights of a checkpoint, EMA included."""
        self._load_from_checkpoint(str(folder), self.model_wrapped)

    def final_weights(self) -> dict[str, Tensor]:
        """Return the weights of a finished run, each of any shape: those of the EMA if there is one, adapters merged."""
        if self.average is not None:
            self.average.copy_to_network()
        if self.settings.lora is not None:
            merge_adapters(self.module)
        return self.whole_weights()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimiser's moments and the schedule's step; rates and decays are those of the current config."""
        with checkpoints.explain_load_errors(checkpoint), keep_settings(self.optimizer, self.lr_scheduler):
            if self.settings.fsdp and checkpoint is not None and self.lr_scheduler is not None:
                load_optimizer(self.module, self.optimizer.optimizer, self.lr_scheduler, Path(checkpoint))
                return
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load the RNG state of each process; if the number of processes differs, reseed from the step."""
        if checkpoint is None:
            return
        manifest = checkpoints.read_json(Path(checkpoint) / checkpoints.MANIFEST)
        if manifest["world"] == world_size():
            with checkpoints.explain_load_errors(checkpoint):
                super()._load_rng_state(checkpoint)
        else:
            self._seed_dropout()

    def _seed_dropout(self) -> None:
        """Seed dropout differently in each process."""
        seed = mix_seed(self.settings.seed, _DROPOUT, self.start_step, self.args.process_index)
        torch.manual_seed(seed % 2**63)
