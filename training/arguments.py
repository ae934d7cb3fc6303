"""The `training` section as `transformers.TrainingArguments`, and what this machine cannot do of it."""

from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from training.config_types import TrainingConfig
from training.distributed import world_size
from training.errors import UnfitError
from training.share import Share

SAME_NAME = (
    *("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "bf16", "fp16", "torch_compile", "logging_steps"),
    *("eval_steps", "save_steps", "report_to", "dataloader_num_workers", "ddp_find_unused_parameters"),
)


def training_arguments(settings: TrainingConfig, share: Share, folder: str, *, use_cpu: bool) -> TrainingArguments:
    """Arguments for the Trainer; raises UnfitError for what the machine cannot do."""
    check_machine(settings, use_cpu=use_cpu)
    given = {name: getattr(settings, name) for name in SAME_NAME}
    if settings.fsdp:
        given |= {"fsdp": True, "fsdp_config": {"version": 2}}
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=share.batch_size,
        per_device_eval_batch_size=share.batch_size,
        gradient_accumulation_steps=share.accumulation,
        use_cpu=use_cpu,
        eval_strategy="steps",
        save_strategy="steps",
        ignore_data_skip=True,  # our batches begin where the run goes on, so none is to be skipped
        logging_nan_inf_filter=False,  # it waits for the GPU at each step; a loss that is no number ends the run
        ddp_broadcast_buffers=False,  # buffers are equal by construction: features are drawn from a seed
        disable_tqdm=True,
        remove_unused_columns=False,
        **given,
    )


def check_machine(settings: TrainingConfig, *, use_cpu: bool) -> None:
    """Raise UnfitError for precision or sharding that the devices at hand do not offer."""
    if settings.fsdp and use_cpu:
        raise UnfitError(
            "training.fsdp shards over GPUs, and this run is on a CPU, where the Trainer would silently keep whole "
            "copies (DDP) instead; leave fsdp out, or run on GPUs"
        )
    if settings.fsdp and world_size() == 1:
        raise UnfitError(
            "training.fsdp shares a model out over several processes, and there is one; start it with "
            "torchrun --nproc-per-node=N train.py ..."
        )
    if settings.fp16 and use_cpu:
        raise UnfitError("training.fp16 needs a GPU; on a CPU, bf16: true works")
    if settings.bf16 and not use_cpu and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise UnfitError("training.bf16: this GPU has no bfloat16; fp16: true works")


def shard_by_layer(arguments: TrainingArguments, network: nn.Module) -> None:
    """Let FSDP gather one layer at a time: the classes of what stands in the network's lists."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    names = sorted({type(layer).__name__ for layers in lists for layer in layers})
    arguments.fsdp_plugin_args["transformer_cls_names_to_wrap"] = ",".join(names)


def is_on_cpu(config: Any) -> bool:
    """Whether a model's config puts it on the CPU, or this machine has nothing else."""
    return not torch.accelerator.is_available() or "cpu" in _devices(config)


def _devices(config: Any) -> set[str]:
    """Every `device` in a config, however deep."""
    if not hasattr(type(config), "model_fields"):
        return set()
    found: set[str] = set()
    for name in type(config).model_fields:
        value = getattr(config, name)
        found |= {value} if name == "device" else _devices(value)
    return found
