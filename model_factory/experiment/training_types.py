"""Types of the `training` and `generation` sections. Keys are named as `transformers.TrainingArguments` names them."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from data_manager.dataset_types import not_empty
from model.latent.registry import LATENT_SAMPLERS
from model_factory.diffusion.registry import SAMPLERS
from model_factory.experiment.task_registry import TASKS
from model_factory.yaml_config.from_registry import FromRegistry, name_of
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.registry import RegistryUnion
from model_factory.yaml_config.strict_model import StrictModel, Violation

# Type of `training.speech`: settings that speech tasks add to an encoder; no torch is imported.


Count = Annotated[int, Field(ge=0, le=100)]


Width = Annotated[int, Field(ge=0, le=10_000)]


class SpecAugmentConfig(StrictModel):
    """SpecAugment: masked bands of frequencies and stretches of time (Park et al. 2019, arXiv 1904.08779)."""

    frequency_masks: Count = 2
    """Masked frequency bands of each utterance; 0: no masks. [bands]"""
    frequency_width: Width = 27
    """Widest band, in mel bins; each band has 0 to this many. [bins]"""
    time_masks: Count = 2
    """Masked time stretches of each utterance; 0: no masks. [stretches]"""
    time_width: Width = 40
    """Longest stretch, in frames. [frames]"""
    time_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Longest stretch as a share of the utterance; the shorter of the two bounds applies. [share]"""

    def violations(self) -> Iterator[Violation]:
        """Yield masks without a width."""
        for name in ("frequency", "time"):
            if getattr(self, f"{name}_masks") and not getattr(self, f"{name}_width"):
                message = f"{name}_width 0 hides nothing"
                yield Violation(message, (f"{name}_width",), ((f"{name}_masks",),), f"{name}_masks: 0")


class SpeechTaskConfig(StrictModel):
    """Settings of the tasks `speech_recognition` and `diarization`."""

    subsampling: Literal[1, 2, 4, 8] = 4
    """Frames that become one position of the encoder, by convolutions of stride 2. [frames]"""
    channels: Annotated[int, Field(gt=0, le=4096)] = 32
    """Channels of these convolutions. [channels]"""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    """Masks of SpecAugment in training; null: no masks."""
    num_speakers: Annotated[int, Field(gt=0, le=6)] = 2
    """For diarization: the most speakers of a recording. [speakers]"""


# Type of a training stage of a latent diffusion model: `training: {stages: [{train: autoencoder, steps: 1000}, ...]}`.


class StageConfig(StrictModel):
    """Stage of training: the part of the model that is trained, and for how many steps."""

    train: Literal["autoencoder", "diffusion", "joint"]
    """autoencoder; diffusion of the latents of the frozen encoder; or joint, both together."""
    steps: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    """Optimiser steps; None, for the last stage: the rest of max_steps. [steps]"""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Highest learning rate of the stage; None: that of the training. Each stage has its own warm-up and decay. [1]"""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """For joint: steps over which the diffusion's gradient into the encoder grows from 0 to its full size. [steps]"""

    def violations(self) -> Iterator[Violation]:
        """Yield a warm-up outside joint training, and one longer than its stage."""
        if self.warmup_steps and self.train != "joint":
            message = f"warmup_steps is of joint training, and this stage trains the {self.train}"
            yield Violation(message, ("warmup_steps",), (("train",),), "leave it out, or train: joint")
        if self.steps is not None and self.warmup_steps > self.steps:
            message = f"warmup_steps {self.warmup_steps} is more than the stage's {self.steps} steps"
            yield Violation(message, ("warmup_steps",), (("steps",),), f"at most {self.steps}")


def stage_violations(stages: list[StageConfig], max_steps: int, init_from: str | None) -> Iterator[Violation]:
    """Yield stages that do not fill max_steps, or that train the diffusion of an untrained autoencoder."""
    if stages[0].train == "diffusion" and init_from is None:
        message = "the first stage trains the diffusion of an autoencoder that was never trained"
        fix = "a stage {train: autoencoder} before it, or init_from: a run that has one"
        yield Violation(message, ("stages", 0, "train"), (("init_from",),), fix)
    for index, stage in enumerate(stages[:-1]):
        if stage.steps is None:
            message = "only the last stage may leave out its steps"
            yield Violation(message, ("stages", index), (), f"add steps: {max(1, max_steps // len(stages))}")
    total = sum(stage.steps or 0 for stage in stages)
    open_end = stages[-1].steps is None
    if open_end and total == max_steps:
        message = f"the last stage has no steps: those before it have all {max_steps}"
        yield Violation(
            message, ("stages", len(stages) - 1), (("max_steps",),), "fewer steps before it, or more max_steps"
        )
    elif total != max_steps and not (open_end and total < max_steps):
        message = f"the stages have {total} steps, and max_steps is {max_steps}"
        fix = "leave out the last stage's steps, or max_steps: " + str(total if not open_end else total + 1)
        yield Violation(message, ("stages",), (("max_steps",),), fix)


LOGGERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Packages of each logger of metrics, of which one is enough."""
MOST_STEPS = 1_000_000_000
Steps = Annotated[int, Field(gt=0, le=MOST_STEPS)]


Rate = Annotated[float, Field(ge=0, lt=1)]


MIN_TEMPERATURE = 1e-3


Name = Annotated[str, Field(min_length=1)]


class LoraConfig(StrictModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by the extra `peft`; all other weights are frozen."""

    r: Annotated[int, Field(gt=0, le=4096)] = 8
    """Rank of the adapters. [rank]"""
    lora_alpha: Annotated[float, Field(gt=0, le=65_536)] = 16
    """An adapter's output is scaled by lora_alpha / r. [1]"""
    lora_dropout: Rate = 0.0
    """Dropout before an adapter. [probability]"""
    target_modules: Annotated[list[Name], Field(min_length=1)] | None = None
    """Names of the linear layers to adapt, say [to_q, to_v]; None: all but the head."""


class TrainingConfig(StrictModel):
    """Length, optimiser and outputs of training.

    An optimiser step takes batch_size * gradient_accumulation_steps rows per device; the rows of a step do not depend on
    the number of devices.
    """

    task: Annotated[StrictModel | str | None, FromRegistry(TASKS, names="kept", or_none=True, keys_optional=True)] = (
        None
    )
    """Training task, or {type: name} with its settings; None: the one that fits the model and the data set."""
    dataset: Name | None = None
    """Name of the data set to train on; None: the only one."""
    train_split: Name | None = None
    """Split to train on; None: train, or the first whose name begins with it."""
    eval_split: Name | None = None
    """Split to evaluate on; None: validation, valid, val or dev, or the first whose name begins with one."""
    max_eval_samples: Annotated[int, Field(gt=0)] | None = None
    """Rows of the evaluation split to use, from its beginning; None: all. [rows]"""
    num_labels: Annotated[int, Field(gt=1, le=1_048_576)] | None = None
    """Classes of a classification; None: as many as the training split has. [classes]"""
    init_from: PathText | None = None
    """Weights to begin with: a run, a model that `save_pretrained` wrote, or a published one: a folder or owner/name@COMMIT."""
    max_steps: Steps = 1000
    """Optimiser steps. [steps]"""
    num_train_epochs: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Length in passes over the training rows; with max_steps as well, training ends at the smaller of the two. [epochs]"""
    batch_size: Annotated[int, Field(gt=0, le=1_048_576)] = 32
    """Rows of a batch on each device. [rows]"""
    gradient_accumulation_steps: Annotated[int, Field(gt=0, le=65_536)] = 1
    """Batches whose gradients are summed for one optimiser step. [batches]"""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """Highest learning rate, reached after the warm-up. [1]"""
    lr_scheduler_type: Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"] = (
        "linear"
    )
    """Schedule of the learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0. [steps]"""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps over which the learning rate rises from 0, instead of warmup_steps. [share]"""
    optim: Literal["adamw_torch_fused", "adamw_torch", "adafactor"] = "adamw_torch_fused"
    """Optimiser; adamw_torch_fused is the faster of PyTorch's two AdamW."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay of matrices; biases and norms are not decayed. [1]"""
    adam_beta1: Rate = 0.9
    """Decay of AdamW's mean of gradients. [1]"""
    adam_beta2: Rate = 0.999
    """Decay of AdamW's mean of squared gradients. [1]"""
    adam_epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to AdamW's denominator. [1]"""
    max_grad_norm: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Gradients of a greater norm are scaled down to it; 0: never. [1]"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of weights, data order, dropout and noise. [1]"""
    bf16: bool = False
    """Compute in bfloat16 with float32 weights."""
    fp16: bool = False
    """Compute in float16 with float32 weights and a scaled loss; needs a GPU."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Compute activations again in backward instead of keeping them: full keeps the inputs of layers alone (a fourth of the
    memory, a third more time), selective also matrix products (half the memory); gradients are the same, bit for bit."""
    torch_compile: bool = False
    """Compile the model by torch.compile."""
    fsdp: bool = False
    """Shard weights, gradients, moments and their EMA over the processes that torchrun starts (fully_shard)."""
    ddp_find_unused_parameters: bool = False
    """Synchronise processes although some weights take no part in a step; costs time."""
    dataloader_num_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that prepare batches for each device; 0: the training process itself. [processes]"""
    dataloader_pin_memory: bool = True
    """On a GPU, batches are made in pinned memory, and copied to it while it computes."""
    loss_weighting: Literal["bound", "uniform"] = "bound"
    """For diffusion: train on the bound, or on its terms with equal weights; the bound is reported either way."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average (EMA) of the weights, which is evaluated and saved instead; None: no EMA. [1]"""
    speech: SpeechTaskConfig | None = None
    """For speech: subsampling, SpecAugment, the number of speakers; None: their defaults."""
    stages: Annotated[list[StageConfig], Field(min_length=1)] | None = None
    """For latent diffusion: stages of training; None: the autoencoder for half of max_steps, then the diffusion."""
    lora: LoraConfig | None = None
    """Train only low-rank adapters; they are merged into the weights at the end."""
    early_stopping_patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after this many evaluations without a better loss; None: never. [evaluations]"""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Smallest decrease of the loss that counts as an improvement. [nats]"""
    load_best_model_at_end: bool = False
    """Save the weights of the best evaluation rather than the last ones."""
    logging_steps: Steps = 10
    """Steps between two log entries. [steps]"""
    eval_steps: Steps = 500
    """Steps between two evaluations; there is one at the end as well. [steps]"""
    save_steps: Steps = 500
    """Steps between two checkpoints; there is one at the end as well. [steps]"""
    peak_tflops: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Peak of a device's matrix products in the precision of the run, for `mfu`; None: that of a known GPU. [TFLOP/s]"""
    save_total_limit: Annotated[int, Field(gt=0)] | None = 2
    """Number of newest checkpoints to keep; None: all. [checkpoints]"""
    report_to: Annotated[
        Annotated[Literal["none", "tensorboard", "wandb"], Tag("name")]
        | Annotated[list[Literal["tensorboard", "wandb"]], Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list) else "name"),
    ] = "none"
    """Logger of metrics besides metrics.jsonl, or a list of them; both are extras."""
    run_name: Name | None = None
    """For wandb: name of the run; None: the name of its folder."""
    project: Name | None = None
    """For wandb: project of the run; None: WANDB_PROJECT, else the library's own."""
    tags: list[Name] | None = None
    """For wandb: tags of the run."""

    @model_validator(mode="after")
    def _epochs_are_the_length(self) -> "TrainingConfig":
        """Let `num_train_epochs` alone decide the length if `max_steps` is left out."""
        if self.num_train_epochs is not None and "max_steps" not in self.model_fields_set:
            self.__dict__["max_steps"] = MOST_STEPS  # the type is frozen, and this is still its creation
        return self

    @property
    def task_name(self) -> str | None:
        """Return the name of the task, without its own keys."""
        return None if self.task is None else name_of(self.task)

    @property
    def loggers(self) -> list[str]:
        """Return the loggers of metrics besides metrics.jsonl."""
        return (
            list(self.report_to) if isinstance(self.report_to, list) else [self.report_to] * (self.report_to != "none")
        )

    def violations(self) -> Iterator[Violation]:
        """Yield values that contradict each other or have no effect."""
        for key in ("run_name", "project", "tags"):
            if getattr(self, key) is not None and "wandb" not in self.loggers:
                yield Violation(f"{key} is for wandb", (key,), (("report_to",),), "add report_to: wandb")
        if self.warmup_steps >= self.max_steps and self.num_train_epochs is None:
            yield Violation(
                f"warmup_steps {self.warmup_steps} leaves nothing of max_steps {self.max_steps}",
                ("warmup_steps",),
                (("max_steps",),),
                f"at most {self.max_steps - 1}",
            )
        elif (self.warmup_steps or self.warmup_ratio) and self.lr_scheduler_type == "constant":
            yield Violation(
                "lr_scheduler_type constant has no warm-up",
                ("warmup_ratio" if self.warmup_ratio else "warmup_steps",),
                (("lr_scheduler_type",),),
                "lr_scheduler_type: constant_with_warmup",
            )
        if self.bf16 and self.fp16:
            yield Violation("bf16 and fp16 exclude each other", ("fp16",), (("bf16",),), "keep one of them")
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            yield Violation(
                "early_stopping_threshold does nothing without early_stopping_patience",
                ("early_stopping_threshold",),
                (("early_stopping_patience",),),
                "early_stopping_patience: 3",
            )
        if self.stages is not None and self.num_train_epochs is not None:
            yield Violation(
                "stages count steps, and num_train_epochs gives none before the data are read",
                ("num_train_epochs",),
                (("stages",),),
                f"max_steps: {self.max_steps}",
            )
        elif self.stages is not None:
            yield from stage_violations(self.stages, self.max_steps, self.init_from)

        if self.fsdp and self.optim == "adafactor":
            yield Violation(
                "adafactor keeps means over the rows and columns of a weight, which fsdp shares out",
                ("optim",),
                (("fsdp",),),
                "optim: adamw_torch_fused",
            )


MAX_ATTEMPTS = 100
"""Default number of samples drawn for each one that is kept."""


class GenerationConfig(StrictModel):
    """Number and length of samples, and the choice of tokens."""

    num_samples: Annotated[int, Field(gt=0, le=1_000_000)] = 4
    """Number of samples. [samples]"""
    max_new_tokens: Annotated[int, Field(gt=0, le=1_048_576)] = 128
    """Longest continuation, in tokens. [tokens]"""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Divides the logits, at least 0.001; 0 takes the likeliest token. [1]"""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Choose among the k likeliest tokens. [tokens]"""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Choose among the likeliest tokens that have this probability in total. [probability]"""
    num_beams: Annotated[int, Field(gt=0, le=1024)] = 1
    """Beams of beam search; 1: no beam search. [beams]"""
    sampler: Annotated[
        StrictModel | str | None,
        FromRegistry(RegistryUnion(SAMPLERS, LATENT_SAMPLERS), names="unchecked", or_none=True),
    ] = None
    """For diffusion: the sampler's name, or {type: name} with its settings; None: the process's own."""
    steps: Steps | None = None
    """For diffusion: steps from noise to text; None: the model's own default. [steps]"""
    guidance: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Classifier-free guidance of a diffusion model over its condition, or over the source of pairs: 1 samples the conditional
    distribution, above 1 amplifies the condition, and other values than 0 and 1 follow no distribution of the model; None: 1.
    [1]"""
    exactly: Annotated[dict[Name, Annotated[int, Field(ge=0)]], AfterValidator(not_empty)] | None = None
    """Number of times that each substring occurs in a sample: `{"*": 2}` for polymers with two ends. Rejection sampling
    redraws until it holds, so samples have the model's conditional distribution; None: no condition. [times]"""
    max_attempts: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """With exactly: most samples drawn for each one that is kept; None: 100. [samples]"""

    def violations(self) -> Iterator[Violation]:
        """Yield attempts without a rule to redraw by, and temperatures at which logits overflow."""
        if 0 < self.temperature < MIN_TEMPERATURE:
            message = f"temperature {self.temperature:g} is below {MIN_TEMPERATURE:g}, where logits overflow"
            yield Violation(message, ("temperature",), (), "0, which takes the likeliest token")
        if self.max_attempts is not None and self.exactly is None:
            yield Violation(
                "max_attempts limits how often samples are drawn again, and without exactly none is",
                ("max_attempts",),
                (("exactly",),),
                'exactly: {"*": 2}',
            )

    @property
    def sampler_choice(self) -> str | dict[str, Any] | None:
        """Return the sampler as models take it: a name, or a mapping of `type` and settings."""
        return self.sampler.model_dump() if isinstance(self.sampler, StrictModel) else self.sampler

    @property
    def sampler_name(self) -> str | None:
        """Return the name of the sampler without its settings."""
        return None if self.sampler is None else name_of(self.sampler)
