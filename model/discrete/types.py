"""The section of `model_type: diffusion`: process, schedule, objective and backbone, and checks that they fit."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from model.denoisers import built_in  # noqa: F401  (registers the built-in backbones)
from model.denoisers.config_types import BackboneConfig
from model.denoisers.encoder_types import reads_source
from model.denoisers.registry import BACKBONES
from model.registry import register_model
from model.types import Size
from model_factory.diffusion.objectives.built_in import ClipConfig
from model_factory.diffusion.processes.built_in import AbsorbingConfig, LogLinearConfig
from model_factory.diffusion.registry import OBJECTIVES, PROCESSES, SCHEDULES, processes_of, samplers_of
from model_factory.yaml_config.from_registry import FromRegistry
from model_factory.yaml_config.registry import import_on_call
from model_factory.yaml_config.strict_model import StrictModel, Violation

if TYPE_CHECKING:
    pass


Finite = Annotated[float, Field(allow_inf_nan=False)]


class ConditionConfig(StrictModel):
    """Condition of samples: a class, or a vector of properties; passed as `cond` in training and sampling."""

    type: Literal["class", "properties"]
    """class (an index) or properties (a vector of floats)."""
    num_classes: Size | None = None
    """Number of classes, of `type: class`. [classes]"""
    size: Size | None = None
    """Number of properties, of `type: properties`. [properties]"""
    mean: list[Finite] | None = None
    """Mean of each property, which is subtracted; None: the mean of the training rows. [each property's own]"""
    std: list[Annotated[Finite, Field(gt=0)]] | None = None
    """Standard deviation of each property, by which it is then divided, so that conditions keep their units; None: that
    of the training rows. [each property's own]"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping a row's condition in training, for classifier-free guidance (Ho 2022). [probability]"""

    def violations(self) -> Iterator[Violation]:
        """Yield violations between the type and its size, mean and std."""
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
                yield Violation(f"a condition of type class has no {key}", (key,), (("type",),), "leave it out")
                continue
            if self.size is not None and len(given) != self.size:
                message = f"{key} has {len(given)} numbers, but there are {self.size} properties"
                yield Violation(message, (key,), (("size",),), f"give {self.size}")
            if getattr(self, pair) is None:
                yield Violation(f"{key} is given without {pair}", (key,), (), "give both, or neither")


class DiffusionConfig(StrictModel):
    """Discrete diffusion model: a process that replaces tokens by noise, and a network that learns to reverse it."""

    process: Annotated[StrictModel, FromRegistry(PROCESSES)] = AbsorbingConfig()
    """Forward process: absorbing, uniform, hybrid or a registered one."""
    schedule: Annotated[StrictModel, FromRegistry(SCHEDULES)] = LogLinearConfig()
    """Noise schedule: loglinear, geometric, cosine, linear, discrete or a registered one."""
    objective: Annotated[StrictModel, FromRegistry(OBJECTIVES)]
    """Training objective: sedd, mdlm, udlm, d3pm, gidd, bd3lm, flexmdm or a registered one."""
    backbone: Annotated[BackboneConfig, FromRegistry(BACKBONES)]
    """The network: performer, ddit, bert, hugging_face (a pretrained model), or a registered one."""
    vocab_size: Annotated[int, Field(gt=1, le=16_777_216)] | None = None
    """Number of data tokens N, without the mask; None: the data set's tokenizer's. [tokens]"""
    length: Size | None = None
    """Length of sequences; None: the data set's sequence_length. [tokens]"""
    time_conditioning: bool | None = None
    """Condition the network on sigma; None: yes, except in built-in backbones with mdlm or bd3lm, as published."""
    condition: ConditionConfig | None = None
    """Condition of samples; None: unconditional."""
    source_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of leaving a row's source out in training, for classifier-free guidance over it: its tokens are masked,
    or the encoder's output is replaced by a learned one. [probability]"""

    @property
    def is_time_conditioned(self) -> bool:
        """True if the network is conditioned on the noise level.

        A custom network is, unless the file sets it to false: it may not accept None.
        """
        if self.time_conditioning is not None:
            return self.time_conditioning
        return (
            OBJECTIVES.get(_type_of(self.objective)).time_conditioning
            or not BACKBONES.get(self.backbone.type).sigma_optional
        )

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers that fit; the first is the default."""
        return samplers_of(_type_of(self.process), _type_of(self.objective))

    def violations(self) -> Iterator[Violation]:
        """Yield violations between process, objective, schedule, backbone and time conditioning."""
        objective, process = _type_of(self.objective), _type_of(self.process)
        entry, noise = OBJECTIVES.get(objective), PROCESSES.get(process)
        if not entry.fits(noise):
            fitting = processes_of(objective)
            others = [name for name in OBJECTIVES if OBJECTIVES.get(name).fits(noise)]
            yield Violation(
                f"objective {objective} is defined for {' or '.join(fitting)} noise, but the process is {process}",
                ("objective", "type"),
                (("process", "type"),),
                " or ".join([*(f"objective: {{type: {name}}}" for name in others), f"process: {{type: {fitting[0]}}}"]),
            )
        elif not noise.absorbing and not self.is_time_conditioned:
            yield Violation(
                f"under {process} noise the network cannot infer the noise level from the tokens and needs time conditioning",
                ("time_conditioning",),
                (("process", "type"), ("objective", "type")),
                "time_conditioning: true",
            )
        yield from self._discrete_time()
        yield from self._drawn_times()
        yield from self._source_dropout()
        if entry.variable_length:
            yield from self._variable_length(objective)
        if entry.blockwise and not BACKBONES.get(self.backbone.type).takes_blocks:
            known = [name for name in BACKBONES if BACKBONES.get(name).takes_blocks]
            yield Violation(
                f"objective {objective} needs a network that takes blocks, which backbone {self.backbone.type} does not",
                ("backbone", "type"),
                (("objective", "type"),),
                "backbone: {type: " + " or ".join(known) + "}",
            )
        if entry.blockwise and getattr(self.backbone, "local_width", None) is not None:
            yield Violation(
                f"objective {objective} needs a network whose blocks read no later block, and the convolution of "
                "local_width reads across their borders",
                ("backbone", "local_width"),
                (("objective", "type"),),
                "leave it out",
            )

    def _source_dropout(self) -> Iterator[Violation]:
        """Yield violations of `source_dropout`: no replacement for a dropped source, or a second condition beside it."""
        process = _type_of(self.process)
        if not self.source_dropout:
            return
        if not reads_source(self.backbone) and not PROCESSES.get(process).absorbing:
            yield Violation(
                f"a source that is left out is replaced by masks, and {process} noise has none",
                ("source_dropout",),
                (("process", "type"),),
                "process: {type: absorbing}, or an encoder in the backbone",
            )
        if self.condition is not None:
            message = "guidance is over one condition, and both the condition and the source would be left out"
            yield Violation(message, ("source_dropout",), (("condition",),), "leave one of them out")

    def _variable_length(self, objective: str) -> Iterator[Violation]:
        """Yield violations of a network that inserts tokens: it needs the time, and a vocabulary that can grow."""
        backbone = self.backbone.type
        if not self.is_time_conditioned:
            yield Violation(
                f"objective {objective} needs time conditioning: which tokens are missing depends on how many are "
                "missing at a time, and the tokens that are there do not tell it",
                ("time_conditioning",),
                (("objective", "type"),),
                "time_conditioning: true",
            )
        if BACKBONES.get(backbone).fixed_vocabulary:
            known = [name for name in BACKBONES if not BACKBONES.get(name).fixed_vocabulary]
            yield Violation(
                f"objective {objective} adds outputs for missing tokens, and the outputs of backbone {backbone} are "
                "those of a pretrained vocabulary",
                ("backbone", "type"),
                (("objective", "type"),),
                "backbone: {type: " + " or ".join(known) + "}",
            )

    def _discrete_time(self) -> Iterator[Violation]:
        """Yield a violation unless schedule and objective give one number of steps in discrete time."""
        objective, schedule = _type_of(self.objective), _type_of(self.schedule)
        if not OBJECTIVES.get(objective).discrete_time:
            return
        steps = getattr(self.objective, "num_steps", None)
        own = getattr(self.schedule, "num_steps", None)
        if not SCHEDULES.get(schedule).discrete:
            if steps is None:
                message = f"objective {objective} needs a number of steps, and schedule {schedule} has no num_steps"
                remedy = "schedule: {type: discrete, num_steps: 1000}, or num_steps: 1000 here"
                yield Violation(message, ("objective", "type"), (("schedule", "type"),), remedy)
        elif steps is not None and steps != own:
            message = f"objective {objective} has {steps} steps, but the schedule has {own}"
            yield Violation(message, ("objective", "num_steps"), (("schedule", "num_steps"),), "leave it out")

    def _drawn_times(self) -> Iterator[Violation]:
        """Yield a violation where the noise or the schedule does not fit the `times` of the objective."""
        times = getattr(self.objective, "times", "uniform")
        process, schedule = _type_of(self.process), _type_of(self.schedule)
        at, involved = ("objective", "times"), (("schedule", "type"),)
        if times == "count" and not PROCESSES.get(process).absorbing:
            yield Violation(
                f"the count form needs masks: under {process} noise a noised token can look like a clean one, so the bound is no "
                "sum over noised tokens",
                at,
                (("process", "type"),),
                "leave it out, or process: {type: absorbing}",
            )
        elif times == "count" and not OBJECTIVES.get(_type_of(self.objective)).discrete_time:
            end = _last_alpha(self.schedule)
            if end:
                message = f"times: count is the bound at eps 0, and the schedule ends with {end}, whose prior part would count twice"
                yield Violation(message, at, involved, "schedule: {type: loglinear, eps: 0}")
        elif isinstance(times, ClipConfig) and schedule != "loglinear":
            message = (
                f"clip bounds the share of masks, which is the time under schedule loglinear, but not under {schedule}"
            )
            yield Violation(message, (*at, "clip"), involved, "schedule: {type: loglinear}")

    def sized(self, vocab_size: int | None, length: int | None) -> "DiffusionConfig":
        """Return a copy in which a missing vocab_size and length come from a data set.

        Raises ValueError if the section's vocab_size is smaller than the tokenizer's.
        """
        if self.vocab_size is not None and vocab_size is not None and self.vocab_size < vocab_size:
            raise ValueError(f"vocab_size is {self.vocab_size}, but the data set's tokenizer has {vocab_size} tokens")
        return self.model_copy(
            update={"vocab_size": self.vocab_size or vocab_size, "length": self.sequence_length or length},
        )

    @property
    def sequence_length(self) -> int | None:
        """Length of sequences: the section's, else the one set in the backbone's section."""
        own = getattr(self.backbone, "length", None) if "length" in self.backbone.model_fields_set else None
        return self.length or (own if isinstance(own, int) else None)

    def backbone_values(self) -> dict[str, Any]:
        """Return a builder's values: the backbone's section, `num_tokens`, and what it needs of the model's section."""
        return {
            "num_tokens": self.vocab_size,
            **self.backbone.model_dump(),
            "length": self._network_length(),
            "time_conditioning": self.is_time_conditioned,
            "condition": self.condition.model_dump() if self.condition else None,
            "source_dropout": self.source_dropout,
        }

    def _network_length(self) -> int | None:
        """Return the length of the network's input: one more where an anchor is put before rows."""
        length: int | None = self.sequence_length or getattr(self.backbone, "length", None)
        inserts = OBJECTIVES.get(_type_of(self.objective)).variable_length
        return length + 1 if inserts and length is not None else length


def _last_alpha(schedule: Any) -> str | None:
    """Describe alpha at t = 1 of a schedule with keys of built-in types; None if it is 0 or not known from the keys."""
    if getattr(schedule, "eps", 0):
        return f"alpha = eps = {schedule.eps:g}"
    if hasattr(schedule, "sigma_max"):
        return f"sigma = {schedule.sigma_max:g}"
    curve = getattr(schedule, "curve", "even")
    return None if curve == "even" else f"alpha above 0 (curve: {curve})"


def _type_of(part: Any) -> str:
    """Return the registered name of a part."""
    return str(part.type)


register_model("diffusion", config=DiffusionConfig)(import_on_call("model.discrete.model:DiffusionModel"))
