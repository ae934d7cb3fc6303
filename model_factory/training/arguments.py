"""Conversion of the `training` section to `transformers.TrainingArguments`."""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.distributed import is_main
from model_factory.training.share import Share

SAME_NAME = (
    *("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "bf16", "fp16", "torch_compile", "logging_steps"),
    *("eval_steps", "save_steps", "dataloader_num_workers", "dataloader_pin_memory"),
    "ddp_find_unused_parameters",
)


def training_arguments(settings: TrainingConfig, share: Share, folder: str, *, use_cpu: bool) -> TrainingArguments:
    """Build the Trainer's arguments, and limit the logging of its libraries to errors.

    `model_factory.training.run.environment` checks that the machine supports them.
    """
    _silence_libraries()
    given = {name: getattr(settings, name) for name in SAME_NAME}
    given |= {"report_to": settings.loggers or "none", "run_name": settings.run_name or Path(folder).name}
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=share.batch_size,
        per_device_eval_batch_size=share.batch_size,
        gradient_accumulation_steps=share.accumulation,
        use_cpu=use_cpu,
        accelerator_config={"non_blocking": settings.dataloader_pin_memory},
        eval_strategy="steps",
        save_strategy="steps",
        ignore_data_skip=True,  # our batches begin at the step that the run resumes from, so nothing is to be skipped
        logging_nan_inf_filter=False,  # the filter synchronises with the GPU at each step; a NaN loss ends the run anyway
        ddp_broadcast_buffers=False,  # buffers are equal by construction: features are drawn from a seed
        disable_tqdm=True,
        remove_unused_columns=False,
        **given,
    )


def _silence_libraries() -> None:
    """Limit the logging of libraries to errors."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


@contextmanager
def keep_settings(optimizer: Optimizer, schedule: LRScheduler | None) -> Iterator[None]:
    """Keep the learning rates, decays and betas of the current config while the block loads those of a checkpoint.

    The schedule is that of the config too, at the step of the checkpoint; a jump of the learning rate is printed. The
    moments and the number of steps are those of the checkpoint.
    """
    given = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    base = list(getattr(schedule, "base_lrs", ()))
    yield
    if not isinstance(schedule, LambdaLR):
        return
    before, step = optimizer.param_groups[0]["lr"], schedule.last_epoch
    rates = [rate * factor(step) for rate, factor in zip(base, schedule.lr_lambdas, strict=True)]
    schedule.base_lrs, schedule._last_lr = base, rates
    for group, own, rate in zip(optimizer.param_groups, given, rates, strict=True):
        group.update({**own, "lr": rate})
    if not math.isclose(before, rates[0], rel_tol=1e-9) and is_main():
        print(f"note: the learning rate was {before:.4g}, and is {rates[0]:.4g} from step {step:,} on", file=sys.stderr)
