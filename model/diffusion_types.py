"""The section of `model_type: diffusion`: process, schedule, objective and backbone, and what fits what."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from diffusion.processes.built_in import AbsorbingConfig, LogLinearConfig
from diffusion.registry import OBJECTIVES, PROCESSES, SCHEDULES, processes_of, samplers_of
from model.denoisers import built_in  # noqa: F401  (registers the built-in backbones)
from model.denoisers.config_types import BackboneConfig
from model.denoisers.registry import BACKBONES
from model.registry import register_model
from model.types import Size
from yaml_config.strict_model import StrictModel, Violation
from yaml_config.tagged import FromRegistry

if TYPE_CHECKING:
    from model.diffusion_model import DiffusionModel


Finite = Annotated[float, Field(allow_inf_nan=False)]


class ConditionConfig(StrictModel):
    """What samples can be asked for: a class, or a vector of properties; given as `cond` in training and sampling."""

    type: Literal["class", "properties"]
    """class (an index) or properties (a vector of floats)."""
    num_classes: Size | None = None
    """Number of classes, of `type: class`. [classes]"""
    size: Size | None = None
    """Number of properties, of `type: properties`. [properties]"""
    mean: list[Finite] | None = None
    """Mean of each property, which is subtracted from it; None: that of the rows that are
    trained on. [each property's own]"""
    std: list[Annotated[Finite, Field(gt=0)]] | None = None
    """Standard deviation of each property, by which it is then divided, so that conditions are given in their own
    units; None: that of the rows that are trained on. [each property's own]"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of rows whose condition is hidden in training, so that guidance has something to guide
    (Ho 2022). [probability]"""

    def violations(self) -> Iterator[Violation]:
        """Each type has its own size."""
        needed, other = ("num_classes", "size") if self.type == "class" else ("size", "num_classes")
        if getattr(self, needed) is None:
            yield Violation(f"a condition of type {self.type} needs {needed}", (needed,), (("type",),))
        if getattr(self, other) is not None:
            yield Violation(f"a condition of type {self.type} has no {other}", (other,), (("type",),), f"use {needed}")
        for key, pair in (("mean", "std"), ("std", "mean")):
            given: list[float] | None = getattr(self, key)
            if given is None:
                continue
            if self.type == "class":
                yield Violation(f"a class has no {key}", (key,), (("type",),), "leave it out")
                continue
            if self.size is not None and len(given) != self.size:
                message = f"{key} has {len(given)} numbers, and there are {self.size} properties"
                yield Violation(message, (key,), (("size",),), f"give {self.size}")
            if getattr(self, pair) is None:
                yield Violation(f"{key} is given without {pair}", (key,), (), "give both, or neither")


class DiffusionConfig(StrictModel):
    """A discrete diffusion model: noise that replaces tokens, and a network that learns to undo it."""

    process: Annotated[StrictModel, FromRegistry(PROCESSES)] = AbsorbingConfig()
    """What noise does to a token: absorbing, uniform or hybrid."""
    schedule: Annotated[StrictModel, FromRegistry(SCHEDULES)] = LogLinearConfig()
    """How fast: loglinear, geometric, cosine, linear or discrete."""
    objective: Annotated[StrictModel, FromRegistry(OBJECTIVES)]
    """What is learnt: sedd, mdlm, udlm, d3pm, gidd or bd3lm."""
    backbone: Annotated[BackboneConfig, FromRegistry(BACKBONES)]
    """The network: performer, ddit, bert, hugging_face (a pretrained model), or one that you registered."""
    vocab_size: Annotated[int, Field(gt=1, le=16_777_216)] | None = None
    """Number of data tokens N, the mask not counted; None: the data set's tokenizer's. [tokens]"""
    length: Size | None = None
    """Length of sequences; None: the data set's sequence_length. [tokens]"""
    time_conditioning: bool | None = None
    """Whether the network is told sigma; None: yes, but for mdlm's and bd3lm's backbones of ours, as published."""
    condition: ConditionConfig | None = None
    """What samples can be asked for; none by default."""

    @property
    def is_time_conditioned(self) -> bool:
        """Whether the network is told the noise level.

        A network of one's own is told it unless the file says otherwise: it may have no place for None.
        """
        if self.time_conditioning is not None:
            return self.time_conditioning
        return (
            OBJECTIVES.get(_name(self.objective)).time_conditioning
            or not BACKBONES.get(self.backbone.type).sigma_optional
        )

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers that fit; the first is the default."""
        return samplers_of(_name(self.process), _name(self.objective))

    def violations(self) -> Iterator[Violation]:
        """The objective is made for the process; a network under uniform noise must know the noise level."""
        objective, process = _name(self.objective), _name(self.process)
        entry, noise = OBJECTIVES.get(objective), PROCESSES.get(process)
        if not entry.fits(noise):
            fitting = processes_of(objective)
            others = [name for name in OBJECTIVES if OBJECTIVES.get(name).fits(noise)]
            yield Violation(
                f"objective {objective} is made for {' or '.join(fitting)} noise, and the process is {process}",
                ("objective", "type"),
                (("process", "type"),),
                " or ".join([*(f"objective: {{type: {name}}}" for name in others), f"process: {{type: {fitting[0]}}}"]),
            )
        elif not noise.absorbing and not self.is_time_conditioned:
            yield Violation(
                f"under {process} noise the network cannot tell the noise level from the tokens, so it must be told",
                ("time_conditioning",),
                (("process", "type"), ("objective", "type")),
                "time_conditioning: true",
            )
        yield from self._discrete_time()
        if entry.blockwise and not BACKBONES.get(self.backbone.type).takes_blocks:
            known = [name for name in BACKBONES if BACKBONES.get(name).takes_blocks]
            yield Violation(
                f"objective {objective} asks its network for blocks, which backbone {self.backbone.type} does not know",
                ("backbone", "type"),
                (("objective", "type"),),
                "backbone: {type: " + " or ".join(known) + "}",
            )

    def _discrete_time(self) -> Iterator[Violation]:
        """D3PM's number of steps stands once, in the schedule or in the objective."""
        objective, schedule = _name(self.objective), _name(self.schedule)
        if not OBJECTIVES.get(objective).discrete_time:
            return
        steps = getattr(self.objective, "num_steps", None)
        own = getattr(self.schedule, "num_steps", None)
        if not SCHEDULES.get(schedule).discrete:
            if steps is None:
                message = f"objective {objective} needs a number of steps, and schedule {schedule} has none"
                remedy = "schedule: {type: discrete, num_steps: 1000}, or num_steps: 1000 here"
                yield Violation(message, ("objective", "type"), (("schedule", "type"),), remedy)
        elif steps is not None and steps != own:
            message = f"objective {objective} has {steps} steps, and the schedule {own}"
            yield Violation(message, ("objective", "num_steps"), (("schedule", "num_steps"),), "leave it out")

    def sized(self, vocab_size: int | None, length: int | None) -> "DiffusionConfig":
        """A copy that takes what it leaves out from a data set: the tokenizer's size and the sequence length.

        Raises ValueError where the section's own vocab_size is smaller than the tokenizer's.
        """
        if self.vocab_size is not None and vocab_size is not None and self.vocab_size < vocab_size:
            raise ValueError(f"vocab_size is {self.vocab_size}, and the data set's tokenizer has {vocab_size} tokens")
        return self.model_copy(
            update={"vocab_size": self.vocab_size or vocab_size, "length": self.sequence_length or length},
        )

    @property
    def sequence_length(self) -> int | None:
        """Length of sequences: the section's, else the one that is written in the backbone's."""
        own = getattr(self.backbone, "length", None) if "length" in self.backbone.model_fields_set else None
        return self.length or (own if isinstance(own, int) else None)

    def backbone_values(self) -> dict[str, Any]:
        """What a backbone's builder reads: its section, and `length`, `time_conditioning`, `condition`, `num_tokens`."""
        return {
            "num_tokens": self.vocab_size,
            **self.backbone.model_dump(),
            "length": self.sequence_length or getattr(self.backbone, "length", None),
            "time_conditioning": self.is_time_conditioned,
            "condition": self.condition.model_dump() if self.condition else None,
        }


def _name(part: Any) -> str:
    return str(part.type)


@register_model("diffusion", config=DiffusionConfig)
def _build_diffusion(config: DiffusionConfig) -> "DiffusionModel":
    from model.diffusion_model import DiffusionModel

    return DiffusionModel(config)
