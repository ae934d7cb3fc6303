"""Which stage of a latent diffusion model's training a step belongs to."""

from dataclasses import dataclass

from training.config_types import TrainingConfig
from training.stage_types import StageConfig


@dataclass(frozen=True)
class StageStep:
    """A step within its stage: `step` counts from 0, `steps` are the stage's."""

    stage: StageConfig
    step: int
    steps: int

    @property
    def encoder_share(self) -> float:
        """Share of the diffusion's gradient that reaches the encoder, 1 after the warm-up."""
        warmup = self.stage.warmup_steps
        return 1.0 if not warmup else min(1.0, self.step / warmup)


def resolve_stages(settings: TrainingConfig) -> list[tuple[StageConfig, int]]:
    """The stages with their steps; without any in the file, the autoencoder for half of them, then the diffusion."""
    total = settings.max_steps
    if settings.stages is None:
        half = total // 2
        parts = [(StageConfig(train="autoencoder", steps=half), half)] if half else []
        return [*parts, (StageConfig(train="diffusion"), total - half)]
    told = [stage.steps or 0 for stage in settings.stages]
    told[-1] = settings.stages[-1].steps or total - sum(told)
    return list(zip(settings.stages, told, strict=True))


def locate_step(settings: TrainingConfig, step: int) -> StageStep:
    """The stage of a step, counted from 0; a step behind the end belongs to the last one."""
    start = 0
    stages = resolve_stages(settings)
    for stage, steps in stages:
        if step < start + steps:
            return StageStep(stage, step - start, steps)
        start += steps
    return StageStep(stages[-1][0], stages[-1][1], stages[-1][1])
