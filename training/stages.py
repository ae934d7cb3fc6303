"""Stages of training a latent diffusion model: lookup of the stage of a step."""

from dataclasses import dataclass

from training.config_types import TrainingConfig
from training.stage_types import StageConfig


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
