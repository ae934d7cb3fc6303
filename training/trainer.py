"""transformers' Trainer with our batches, losses and checkpoints; its loop, optimisers and devices are its own.

What is overridden: where batches come from (`training.rows`), the loss as a mean over all items of a step, evaluation
as one weighted mean, and checkpoints that appear whole or not at all and are read back strictly.
"""

import json
import math
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments

from training import checkpoints, durable
from training.averaging import EMA
from training.callbacks import RunCallback, best_step
from training.config_types import TrainingConfig
from training.distributed import all_reduce_sum, barrier, broadcast_from_main, is_main, preserve_rng_state, world_size
from training.finite import NanCheck
from training.module import TaskModule
from training.network import load_average
from training.noise import mixed_seed
from training.rows import Buckets, EvalBatches, Item, RowCollator, RowOrder, Rows, TrainBatches, row_loader
from training.share import Share
from training.tasks.base import Batch
from training.weights import WEIGHTS, load_weights, weights_of, write_weights

_DROPOUT = 21


@dataclass(frozen=True)
class Data:
    """Rows to train on, rows to evaluate on (None: no evaluation), what makes batches of them, and which rows of a step."""

    train: Rows
    evaluation: Rows | None
    collate: RowCollator
    share: Share
    buckets: Buckets | None = None


class FactoryTrainer(Trainer):  # type: ignore[misc]
    """Trains a `TaskModule`; `start_step` is the step of the checkpoint that it goes on from."""

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
        start_step: int = 0,
    ) -> None:
        self.module, self.settings, self.data, self.run_callback = module, settings, data, run_callback
        self.average, self.start_step = average, start_step
        self.measured: dict[str, Tensor] = {}
        self.check_nan = NanCheck(Path(args.output_dir))
        super().__init__(model=module, args=args, eval_dataset=[])
        for callback in [callback for callback in self.callback_handler.callbacks if _prints(callback)]:
            self.remove_callback(callback)
        self.add_callback(run_callback)
        self._seed_dropout()

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The course of the learning rate: the task's, or transformers' over all steps."""
        rates = self.module.task.rates()
        if rates is None or self.lr_scheduler is not None:
            usual: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
            return usual
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rates)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- batches and loss ----

    def get_train_dataloader(self) -> DataLoader[Item]:
        """Batches from `start_step` on; the Trainer counts them as one epoch of max_steps."""
        order = RowOrder(len(self.data.train), self.settings.seed, self.data.buckets)
        batches = TrainBatches(order, self.data.share, self.start_step, self.args.max_steps)
        workers = self.args.dataloader_num_workers
        return row_loader(self.data.train, batches, self.data.collate, workers=workers)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        """Items of a step over all its parts and processes."""
        own = torch.stack([self.module.task.weight(batch) for batch in batch_samples]).sum()
        return all_reduce_sum(own.to(device)).clamp(min=1)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """This part's share of the mean over the step, a scalar.

        DDP takes the mean over processes, hence their number.
        """
        assert num_items_in_batch is not None
        outputs = model(inputs)
        weight = self.module.task.weight(inputs)
        share = weight * world_size() / num_items_in_batch
        for name, value in outputs.items():
            if name != "loss":
                _add(self.measured, name, value.detach(), weight)
        loss: Tensor = outputs["loss"] * share
        self.check_nan.add(loss, inputs["noise"].index)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float:
        return self._checked_norm(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        return self._checked_norm(model) if grad_norm is None else grad_norm

    def _checked_norm(self, model: nn.Module, limit: float = float("inf")) -> Tensor | float:
        """The gradients' norm before they are clipped, which makes all of them NaN where one is; hence the check between.

        accelerate clips at once what is sharded or scaled; a scaler skips steps that are not finite by itself.
        """
        parameters = [value for value in model.parameters() if value.grad is not None]
        norm: Tensor | float
        by_accelerate = self.is_fsdp_enabled or self.accelerator.scaler is not None
        if by_accelerate:
            norm = self.accelerator.clip_grad_norm_(model.parameters(), limit)
        else:
            norm = get_total_norm([value.grad for value in parameters if value.grad is not None])
        told = None if self.accelerator.scaler is not None else norm
        self.check_nan(self.state.global_step + 1, told, self.module, self.optimizer.param_groups)
        if not by_accelerate and math.isfinite(limit):
            clip_grads_with_norm_(parameters, limit, torch.as_tensor(norm))
        return norm

    # ---- evaluation and metrics ----

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Mean loss and metrics of the evaluation split, logged; samples and curves are made as well."""
        with preserve_rng_state(self.args.device), torch.no_grad(), self.averaged():
            self.model.eval()
            means = {} if self.data.evaluation is None else self._measure(self.data.evaluation)
            metrics = {f"eval_{name}": value for name, value in means.items()}
            if metrics:
                self.log(dict(metrics))
            if is_main():
                self.run_callback.show(self.module, self.state.global_step, with_samples=not self.is_fsdp_enabled)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure(self, rows: Rows) -> dict[str, float]:
        """Weighted means over all processes' rows; noise is that of step 0, equal in every evaluation."""
        collate = RowCollator(self.data.collate.collate, self.settings.seed, max(len(rows), 1))
        totals: dict[str, Tensor] = {}
        last: Batch | None = None
        for batch in row_loader(rows, EvalBatches(len(rows), self.data.share), collate):
            if not batch and not (self.is_fsdp_enabled and last):
                continue
            inputs = last if not batch else self._prepare_inputs(batch)
            assert inputs is not None
            weight = self.module.task.weight(inputs) * bool(batch)  # FSDP's processes step together
            for name, value in self.model(inputs).items():
                _add(totals, name, value, weight)
            last = inputs
        return self._gathered(totals)

    def _gathered(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes, by the names that the main one has: another may have had no rows."""
        names = broadcast_from_main(sorted(totals))
        if not names:
            return {}
        none = torch.zeros_like(next(iter(totals.values()))) if totals else torch.zeros(2, dtype=torch.float64)
        flat = torch.cat([totals.get(name, none) for name in names]).to(self.args.device)
        pairs = all_reduce_sum(flat).view(-1, 2).tolist()
        return {name: total / weight for name, (total, weight) in zip(names, pairs, strict=True) if weight}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line of metrics."""
        if "train_runtime" in logs:  # the Trainer's summary, which is of the last session alone
            return
        if "loss" in logs:
            logs |= self._gathered(self.measured)
            self.measured = {}
        logs["epoch"] = self.state.global_step * self.data.share.rows / len(self.data.train)
        if any(name.startswith("eval_") for name in logs):  # what best_step and early stopping look at
            self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def averaged(self) -> AbstractContextManager[None]:
        """The averaged weights in place inside the block, where there is an average."""
        return nullcontext() if self.average is None else self.average.in_place()

    # ---- checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: object = None) -> None:
        run, step = Path(self.args.output_dir), self.state.global_step
        staging = checkpoints.staging_folder(run, step)
        with durable.explain_write_errors(f"checkpoint {step}", run):
            try:
                self._write_checkpoint(staging)
                if is_main():
                    durable.put_in_place(staging, checkpoints.checkpoint_folder(run, step))
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
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))
        self._save_rng_state(str(staging))
        if is_main():
            write_weights(staging / WEIGHTS, tensors)
            if self.average is not None:
                write_weights(staging / checkpoints.AVERAGE, self.average.values)
            state = json.dumps(asdict(self.state), indent=1, sort_keys=True)
            (staging / checkpoints.STATE).write_text(state + "\n", encoding="utf-8")
        barrier()
        if is_main():
            checkpoints.write_manifest(
                staging,
                step=self.state.global_step,
                world=world_size(),
                batch_rows=self.data.share.rows,
                split_rows=len(self.data.train),
            )

    def whole_weights(self) -> dict[str, Tensor]:
        """The network's own weights under their own names, of any shape, gathered where they are sharded."""
        if not self.is_fsdp_enabled:
            return weights_of(self.module.network)
        gathered = self.accelerator.get_state_dict(self.model_wrapped)
        return {name.removeprefix("network."): tensor for name, tensor in gathered.items()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if self.is_fsdp_enabled:
            from training.sharding import load_sharded

            load_sharded(self.model_wrapped if model is None else model, folder / WEIGHTS)
        else:
            load_weights(self.module.network, folder / WEIGHTS, "config.yml")
        if self.average is not None:
            load_average(self.average, folder)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Weights and history of a checkpoint after which there is nothing more to train."""
        self.restore_weights(checkpoint.folder)
        self.state.log_history, self.state.global_step = checkpoint.history(), checkpoint.step

    def restore_weights(self, folder: Path) -> None:
        """Weights of a checkpoint, averaged ones included."""
        self._load_from_checkpoint(str(folder), self.model_wrapped)

    def final_weights(self) -> dict[str, Tensor]:
        """What a finished run has, of any shape: averaged weights where there is an average, adapters merged."""
        if self.average is not None:
            self.average.put()
        if self.settings.lora is not None:
            from training.lora import merge_adapters

            merge_adapters(self.module)
        return self.whole_weights()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with checkpoints.plain_values(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """States of the processes that wrote it; where they were more or fewer, fresh ones decided by the step."""
        if checkpoint is None:
            return
        manifest = checkpoints.read_json(Path(checkpoint) / checkpoints.MANIFEST)
        if manifest["world"] == world_size():
            with checkpoints.plain_values(checkpoint):
                super()._load_rng_state(checkpoint)
        else:
            self._seed_dropout()

    def _seed_dropout(self) -> None:
        """Each process drops out values of its own, not those of its neighbours."""
        seed = mixed_seed(self.settings.seed, _DROPOUT, self.start_step, self.args.process_index)
        torch.manual_seed(seed % 2**63)


def _add(totals: dict[str, Tensor], name: str, value: Tensor, weight: Tensor) -> None:
    """Take a mean over `weight` items into (weighted sum, sum of weights), float64 [2] (float32 on mps)."""
    kind = torch.float32 if value.device.type == "mps" else torch.float64
    pair = torch.stack([value.detach().to(kind) * weight, weight.to(value.device, kind)])
    totals[name] = totals[name] + pair if name in totals else pair


def _prints(callback: TrainerCallback) -> bool:
    return type(callback).__name__ in ("PrinterCallback", "ProgressCallback")
