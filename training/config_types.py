"""Types of the `training` and `generation` sections. Keys are named as `transformers.TrainingArguments` names them."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from yaml_config.strict_model import StrictModel, Violation

Steps = Annotated[int, Field(gt=0, le=1_000_000_000)]


class TrainingConfig(StrictModel):
    """How long and how fast to train. An optimiser step sees batch_size * gradient_accumulation_steps rows a device."""

    max_steps: Steps = 1000
    """Optimiser steps."""
    batch_size: Annotated[int, Field(gt=0, le=1_048_576)] = 32
    """Rows of a batch on each device."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """Highest learning rate, reached after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    gradient_accumulation_steps: Annotated[int, Field(gt=0, le=65_536)] = 1
    """Batches whose gradients are summed for one optimiser step."""
    save_steps: Steps = 500
    """Steps between two checkpoints."""
    eval_steps: Steps = 500
    """Steps between two evaluations."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of weights, data order and noise."""
    bf16: bool = False
    """Compute in bfloat16 with float32 weights."""

    def violations(self) -> Iterator[Violation]:
        """The warm-up ends before the training does."""
        if self.warmup_steps >= self.max_steps:
            yield Violation(
                f"warmup_steps {self.warmup_steps} leaves nothing of max_steps {self.max_steps}",
                ("warmup_steps",),
                (("max_steps",),),
                f"at most {self.max_steps - 1}",
            )


class GenerationConfig(StrictModel):
    """What to generate, and how the next token is chosen."""

    num_samples: Annotated[int, Field(gt=0, le=1_000_000)] = 4
    """Number of samples."""
    max_new_tokens: Annotated[int, Field(gt=0, le=1_048_576)] = 128
    """Longest continuation, in tokens."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Choose among the k likeliest tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Choose among the likeliest tokens that hold this probability together."""
    num_beams: Annotated[int, Field(gt=0, le=1024)] = 1
    """Beams of beam search; 1: none."""
