"""Type of a stage of training a latent diffusion model: `training: {stages: [{train: autoencoder, steps: 1000}, ...]}`."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from yaml_config.strict_model import StrictModel, Violation


class StageConfig(StrictModel):
    """A part of the training, and what it trains."""

    train: Literal["autoencoder", "diffusion", "joint"]
    """autoencoder alone; diffusion, of the latents of an encoder that stays as it is; or both together (joint)."""
    steps: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    """Optimiser steps; of the last stage None: what is left of max_steps. [steps]"""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Highest learning rate of the stage; None: the training's. Each stage warms up and decays anew. [1]"""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Of joint: steps over which the diffusion's gradient into the encoder grows from nothing to its
    full size. [steps]"""

    def violations(self) -> Iterator[Violation]:
        """Only joint training has two losses that meet in the encoder."""
        if self.warmup_steps and self.train != "joint":
            message = f"warmup_steps is of joint training, and this stage trains the {self.train}"
            yield Violation(message, ("warmup_steps",), (("train",),), "leave it out, or train: joint")
        if self.steps is not None and self.warmup_steps > self.steps:
            message = f"warmup_steps {self.warmup_steps} is more than the stage's {self.steps} steps"
            yield Violation(message, ("warmup_steps",), (("steps",),), f"at most {self.steps}")


def stage_violations(stages: list[StageConfig], max_steps: int, init_from: str | None) -> Iterator[Violation]:
    """Stages fill max_steps, each but the last with steps of its own; a diffusion has latents that mean something."""
    if stages[0].train == "diffusion" and init_from is None:
        message = "the first stage trains the diffusion of an autoencoder that was never trained"
        fix = "a stage {train: autoencoder} before it, or init_from: a run that has one"
        yield Violation(message, ("stages", 0, "train"), (("init_from",),), fix)
    for index, stage in enumerate(stages[:-1]):
        if stage.steps is None:
            message = "only the last stage may leave its steps out"
            yield Violation(message, ("stages", index), (), f"add steps: {max(1, max_steps // len(stages))}")
    told = sum(stage.steps or 0 for stage in stages)
    open_end = stages[-1].steps is None
    if open_end and told == max_steps:
        message = f"the last stage has no steps: those before it have all {max_steps}"
        yield Violation(
            message, ("stages", len(stages) - 1), (("max_steps",),), "fewer steps before it, or more max_steps"
        )
    elif told != max_steps and not (open_end and told < max_steps):
        message = f"the stages have {told} steps, and max_steps is {max_steps}"
        fix = "leave out the last stage's steps, or max_steps: " + str(told if not open_end else told + 1)
        yield Violation(message, ("stages",), (("max_steps",),), fix)
