"""Type of a training stage of a latent diffusion model: `training: {stages: [{train: autoencoder, steps: 1000}, ...]}`."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from yaml_config.strict_model import StrictModel, Violation


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
