"""Task latent diffusion: train an autoencoder of texts, then a diffusion of its latents, or both jointly."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from model.latent.model import LatentDiffusionModel
from model.latent.types import LatentDiffusionConfig
from model.latent.variational import cyclical_weight
from model_factory.experiment.training_types import StageConfig, TrainingConfig
from model_factory.training.distributed import is_main, world_size
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import Batch, Task, TaskSetting, real_tokens
from model_factory.training.tasks.encoder_texts import EncoderTexts, check_decoder_tokenizer

# Stages of training a latent diffusion model: lookup of the stage of a step.


@dataclass(frozen=True)
class StageStep:
    """Step within its stage: `step` counts from 0, `steps` is the length of the stage."""

    stage: StageConfig
    step: int
    steps: int

    @property
    def encoder_share(self) -> float:
        """Return the factor on the diffusion's gradient into the encoder, 1 after the warm-up."""
        warmup = self.stage.warmup_steps
        return 1.0 if not warmup else min(1.0, self.step / warmup)


def resolve_stages(settings: TrainingConfig) -> list[tuple[StageConfig, int]]:
    """Return (stage, steps) pairs; by default, the autoencoder for half of max_steps, then the diffusion."""
    total = settings.max_steps
    if settings.stages is None:
        half = total // 2
        parts = [(StageConfig(train="autoencoder", steps=half), half)] if half else []
        return [*parts, (StageConfig(train="diffusion"), total - half)]
    steps = [stage.steps or 0 for stage in settings.stages]
    steps[-1] = settings.stages[-1].steps or total - sum(steps)
    return list(zip(settings.stages, steps, strict=True))


def locate_step(settings: TrainingConfig, step: int) -> StageStep:
    """Return the stage of a step, counted from 0; a step after the end belongs to the last stage."""
    start = 0
    stages = resolve_stages(settings)
    for stage, steps in stages:
        if step < start + steps:
            return StageStep(stage, step - start, steps)
        start += steps
    return StageStep(stages[-1][0], stages[-1][1], stages[-1][1])


SHOWN = 4


class LatentDiffusion(Task):
    """Loss of the current stage of `training.stages`; an evaluation computes all losses."""

    generation: ClassVar[Mapping[str, Any]] = {"temperature": 0.0}  # greedy decoding of a latent
    rows_shown: ClassVar[int] = SHOWN

    def __init__(self, setting: TaskSetting) -> None:
        super().__init__(setting)
        self.encoder_texts: EncoderTexts | None = None
        self.last_stage: StageConfig | None = None
        assert setting.config.model is not None
        section = setting.config.model.config
        assert isinstance(section, LatentDiffusionConfig)
        self.section = section
        path = getattr(section.encoder, "path", None)
        if setting.tokenizer is None:
            raise UnfitError(
                "a latent diffusion model needs a data set with a tokenizer; add tokenizer: {type: characters} to it"
            )
        decoder_path = getattr(section.decoder, "path", None)
        if decoder_path is not None:
            check_decoder_tokenizer(decoder_path, setting.tokenizer)
        if path is not None:
            self.encoder_texts = EncoderTexts(path, setting.tokenizer)

    def check(self, network: nn.Module) -> None:
        """Raise UnfitError for settings under which DDP or FSDP fails, as each stage leaves some weights unused."""
        settings = self.setting.training
        trained = {stage.train for stage, _ in resolve_stages(settings)}
        if world_size() > 1 and trained != {"joint"} and not settings.ddp_find_unused_parameters:
            raise UnfitError(
                "each stage of a latent diffusion model leaves some weights unused, which DDP does not allow by default; "
                "set training.ddp_find_unused_parameters: true"
            )
        if settings.fsdp:
            raise UnfitError(
                "training.fsdp needs weights that are used in every step; leave it out to train this model with DDP"
            )

    def rates(self) -> Callable[[int], float]:
        """Return a schedule that restarts in each stage."""
        return stage_lr_factors(self.setting.training)

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of texts."""
        return torch.tensor(float(len(batch["input_ids"])), device=batch["input_ids"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss, reconstruction (nats per token), KL (nats per text) and the diffusion's squared error."""
        noise = batch["noise"]
        moment = locate_step(self.setting.training, noise.step)
        stage = moment.stage.train if network.training else "joint"
        if network.training:
            self._announce_stage(moment)
        inputs = self.encoder_inputs(batch)
        output = network(
            batch["input_ids"],
            batch.get("attention_mask"),
            encoder_ids=None if inputs is None else inputs[0],
            encoder_mask=None if inputs is None else inputs[1],
            stage=stage,
            kl_share=self._kl_factor(moment) if network.training else 1.0,
            encoder_share=moment.encoder_share if network.training else 1.0,
            rows=noise.place,
            batch_size=noise.batch_size,
            seed=noise.step_seed,
        )
        if not network.training:
            measured: dict[str, Tensor] = output._asdict()
            return measured
        parts = {"autoencoder": ("reconstruction", "kl"), "diffusion": ("diffusion",)}
        shown = parts.get(stage, ("reconstruction", "kl", "diffusion"))
        return {"loss": output.loss} | {name: getattr(output, name) for name in shown}

    def encoder_inputs(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Retokenise a batch to ids int64 [B, M] and mask bool [B, M], None if the encoder has no other tokenizer."""
        if self.encoder_texts is None:
            return None
        return self.encoder_texts(batch["input_ids"], real_tokens(batch))

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Return some texts with their reconstructions, and texts decoded from sampled latents."""
        assert isinstance(network, LatentDiffusionModel)
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        assert tokenizer is not None
        real = real_tokens(batch)
        ids, mask = batch["input_ids"][:SHOWN], real[:SHOWN]
        inputs = self.encoder_inputs({"input_ids": ids, "attention_mask": mask}) or (ids, mask)
        sampler = settings.sampler_choice or network.latent_config.samplers[0]
        drawn = network.sample_latents(settings.num_samples, settings.steps, sampler, generator)
        rebuilt = self._decode_latents(network, network.encode(*inputs))
        sources = [tokenizer.decode(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
        pairs = [f"text    {source}\nrebuilt {text}" for source, text in zip(sources, rebuilt, strict=True)]
        return [*pairs, *(f"drawn   {text}" for text in self._decode_latents(network, drawn))]

    def _decode_latents(self, network: LatentDiffusionModel, latents: Tensor) -> list[str]:
        """Decode latents greedily to texts."""
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        assert tokenizer is not None
        longest = network.decoder.transformer.max_length
        new = settings.max_new_tokens if longest is None else min(settings.max_new_tokens, longest - 1)
        ends = {"eos_token": tokenizer.eos_token_id, "pad_token": tokenizer.pad_token_id}
        rows = network.decode(latents, tokenizer.bos_token_id, new, **ends)[:, 1:].tolist()
        return [tokenizer.decode(_cut_at(row, tokenizer.eos_token_id)) for row in rows]

    def _announce_stage(self, moment: StageStep) -> None:
        """Print once that a stage begins, because the meaning of the loss changes with it."""
        if is_main() and moment.stage != self.last_stage:
            print(f"stage {moment.stage.train}, {moment.steps:,} steps", flush=True)
        self.last_stage = moment.stage

    def _kl_factor(self, moment: StageStep) -> float:
        """Return the factor on the KL term at a step of its stage."""
        latent = self.section.resolved.latent
        return cyclical_weight(moment.step, moment.steps, latent.kl_cycles, latent.kl_ramp)


def _cut_at(row: list[int], end: int) -> list[int]:
    """Return the tokens before the first `end`."""
    return row[: row.index(end)] if end in row else row


# Learning rate schedule of staged training: each stage warms up and decays on its own.


def stage_lr_factors(settings: TrainingConfig) -> Callable[[int], float]:
    """Return the function from optimiser step, counted from 0, to the factor on `learning_rate`.

    A stage warms up over `warmup_steps`, or over all of its steps but one if it is shorter.
    """
    stages = resolve_stages(settings)
    schedules = [_build_schedule(settings, steps) for _, steps in stages]
    factors = [(stage.learning_rate or settings.learning_rate) / settings.learning_rate for stage, _ in stages]
    ends = list(accumulate(steps for _, steps in stages))

    def rate(step: int) -> float:
        index = min(bisect_right(ends, step), len(stages) - 1)
        within = step - (ends[index] - stages[index][1])
        return factors[index] * schedules[index](within)

    return rate


def _build_schedule(settings: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Build transformers' schedule over `steps` steps."""
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    warmup = min(settings.warmup_steps, steps - 1)
    scheduler = get_scheduler(settings.lr_scheduler_type, unused, warmup, steps)
    schedule: Callable[[int], float] = scheduler.lr_lambdas[0]
    return schedule
