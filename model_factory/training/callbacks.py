"""Trainer callback: metrics, progress bar, samples, curves, EMA update, early stopping, signals."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from model.device import describe_device
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.distributed import Agreement, get_rng_state, is_main, preserve_rng_state, world_size
from model_factory.training.ema import EMA
from model_factory.training.network import TaskModule
from model_factory.training.noise import mix_seed
from model_factory.training.run.atomic_io import explain_write_errors
from model_factory.training.run.environment import first_step, read_sessions
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.logs import MetricsLog, SamplesLog, draw_curves
from model_factory.training.run.resume import read_history
from model_factory.training.run.signals import GracePeriod
from model_factory.training.speed.progress import format_progress
from model_factory.training.tasks.base import Batch
from model_factory.yaml_config.errors import escape_controls

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]

_SAMPLES = 31


def best_step(history: Sequence[dict[str, float]]) -> int | None:
    """Return the step with the lowest evaluation loss, None without evaluations."""
    found = [(entry["eval_loss"], entry["step"]) for entry in history if "eval_loss" in entry]
    return int(min(found)[1]) if found else None


def is_stopped_early(history: Sequence[dict[str, float]], settings: TrainingConfig) -> bool:
    """Return True if the last `early_stopping_patience` evaluations did not improve on the best loss before."""
    patience = settings.early_stopping_patience
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    if patience is None or len(losses) <= patience:
        return False
    best, since = losses[0], 0
    for loss in losses[1:]:
        better = loss < best - settings.early_stopping_threshold
        best, since = (loss, 0) if better else (best, since + 1)
    return since >= patience


def _describe_start(step: int, device: torch.device) -> str:
    start = f"resuming from step {step:,}" if step else "training"
    several = f"{world_size()} processes, the first on " if world_size() > 1 else ""
    return f"{start} on {several}{describe_device(device)}"


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Copy the tensors of a batch to a device."""
    return {name: upload(value, device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of any shape to a device, from pinned memory without waiting."""
    return tensor.to(device, non_blocking=device.type == "cuda" and tensor.is_pinned())


def prints_progress(callback: TrainerCallback) -> bool:
    """Return True for the Trainer's own progress output, which is replaced by ours."""
    return type(callback).__name__ in ("PrinterCallback", "ProgressCallback")


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that writes a run's logs and prints progress; its decisions depend only on the evaluations so far."""

    def __init__(
        self,
        run: RunFolder,
        settings: TrainingConfig,
        title: str,
        average: EMA | None,
        sample_batch: Callable[[], Batch],
        header: Sequence[str] = (),
    ) -> None:
        self.run, self.settings, self.title, self.average = run, settings, title, average
        self.sample_batch, self.header = sample_batch, header
        self.metrics, self.samples = MetricsLog(run.metrics), SamplesLog(run.samples)
        self.grace = GracePeriod()
        self.agreement: Agreement | None = None
        self.is_stop_requested = False
        self.bar: tqdm | None = None
        self.reported_failures: set[str] = set()
        self.rng_state = get_rng_state()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: TaskModule | None = None,
        **_: object,
    ) -> TrainerControl:
        """Use the intervals of the current config, which may have changed since the checkpoint was written.

        Print the device and the header. Write the samples of a resumed evaluation step if the process was killed before it could write them.
        """
        state.logging_steps, state.eval_steps, state.save_steps = args.logging_steps, args.eval_steps, args.save_steps
        self._adapt(model, state)
        self.agreement = Agreement()
        if is_main():
            self._print_line(escape_controls(f"{self.run}: {_describe_start(state.global_step, args.device)}"))
            for line in self.header:
                self._print_line(escape_controls(f"  {line}"))
        if is_main() and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=args.max_steps, initial=state.global_step, unit="step", file=sys.stderr, leave=False)
        step = state.global_step
        is_evaluated = step > 0 and (step % args.eval_steps == 0 or step >= args.max_steps)
        if is_main() and model is not None and is_evaluated and self.samples.last_step() != step:
            self.write_samples_and_curves(model, step)
        self.rng_state = get_rng_state()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Update the EMA, log the last step whatever the interval, and stop with a checkpoint after a signal."""
        self.rng_state = get_rng_state()
        if self.average is not None:
            self.average.update(state.global_step)
        if self.bar is not None:
            self.bar.update(1)
        if state.global_step >= args.max_steps:
            control.should_log = True
        elif self.agreement is not None and self.agreement.any(self.grace.received is not None):
            self.is_stop_requested = control.should_save = control.should_training_stop = True
        return control

    def _adapt(self, model: TaskModule | None, state: TrainerState) -> None:
        """Pass the last evaluation, which may be of an earlier session, to the task."""
        last = next((entry for entry in reversed(state.log_history) if "eval_loss" in entry), None)
        if model is not None and last is not None:
            model.task.after_evaluation(model.network, last)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: TaskModule | None = None,
        **_: object,
    ) -> TrainerControl:
        """Adapt the task, save a checkpoint of the best evaluation if needed, stop early if the loss no longer improves."""
        self._adapt(model, state)
        if self.settings.load_best_model_at_end and best_step(state.log_history) == state.global_step:
            control.should_save = True
        if is_stopped_early(state.log_history, self.settings):
            control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> TrainerControl:
        """Write one line to metrics.jsonl and one to the terminal."""
        if not is_main() or not logs:
            return control
        entry = {"step": state.global_step, **logs}
        with explain_write_errors("metrics", self.run.metrics):
            self.metrics.append(entry)
        self._print(entry, args.max_steps)
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Close the progress bar."""
        if self.bar is not None:
            self.bar.close()
        return control

    def write_samples_and_curves(self, module: TaskModule, step: int) -> None:
        """Append samples of the current weights to samples.txt and redraw curves.png.

        Training does not depend on them, so a failure is reported once and training continues.
        """
        if not self.settings.fsdp:  # the main process alone cannot run a sharded network
            with self._report_failure("samples"):
                self._write_samples(module, step)
        with self._report_failure("curves"):
            resumed = [step for session in read_sessions(self.run.environment) if (step := first_step(session))]
            changed = [entry["from_step"] for entry in read_history(self.run)[1:]]
            draw_curves(self.metrics.read(), self.run.curves, self.title, resumed, changed)

    def _write_samples(self, module: TaskModule, step: int) -> None:
        """Generate samples with the EMA weights, if there is an EMA, and append them to samples.txt."""
        device = next(module.parameters()).device
        with (
            preserve_rng_state(device),
            torch.no_grad(),
            nullcontext() if self.average is None else self.average.applied(),
        ):
            module.eval()
            generator = torch.Generator(device=device).manual_seed(mix_seed(self.settings.seed, _SAMPLES))
            texts = module.task.samples(module.network, on_device(self.sample_batch(), device), generator)
        if texts:
            self.samples.append(step, texts)

    @contextmanager
    def _report_failure(self, what: str) -> Iterator[None]:
        """Print the first failure inside the block for each `what`, instead of raising it."""
        try:
            yield
        except Exception as error:
            if what not in self.reported_failures:
                self.reported_failures.add(what)
                self._print_line(escape_controls(f"note: {what} cannot be written, and training continues: {error}"))

    def _print_line(self, text: str) -> None:
        """Print a line to standard error, above the progress bar if there is one."""
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.write(text, file=sys.stderr)

    def _print(self, entry: dict[str, Any], total: int) -> None:
        text = format_progress(entry, memory=self.bar is not None)
        if self.bar is not None:
            self.bar.set_postfix_str(text)
            if "eval_loss" not in entry:
                return
        self._print_line(f"step {entry['step']:,}/{total:,}  {text}")
