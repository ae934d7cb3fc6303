"""Registries of processes, noise schedules, objectives and samplers; no torch is imported.

A custom one is one file, imported by `--plugin MODULE` or found through the entry-point groups `model_factory.processes`,
`.schedules`, `.objectives` and `.samplers`:

    class GreedyConfig(StrictModel):
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.9

    @register_sampler("greedy", config=GreedyConfig, absorbing_only=True)
    def build(config, process, denoiser, steps):
        from my_package.greedy import GreedySampler

        return GreedySampler(process, denoiser, steps, config.threshold)

A file may then have `sampler: {type: greedy, threshold: 0.8}`. The keywords of a decorator are the facts that decide
which parts fit each other. `config` is a StrictModel of the part's keys; a field `type` is added where it has none.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from model_factory.yaml_config.from_registry import section_type
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel

if TYPE_CHECKING:
    from model_factory.diffusion.objectives.losses import Objective
    from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
    from model_factory.diffusion.processes.forward_process import Graph
    from model_factory.diffusion.processes.noise_schedule import NoiseSchedule
    from model_factory.diffusion.samplers.base import Sampler
    from model_factory.diffusion.samplers.denoiser import Denoiser

Accuracy = Literal["exact", "convergent", "neither"]
Builder = TypeVar("Builder", bound=Callable[..., Any])

ABSORBING = "absorbing"
"""Kind of noise that replaces tokens by one mask, which stays, so that unmasked tokens are clean."""


class ProcessEntry(NamedTuple):
    """Forward process: `build(config, num_tokens)` returns a Graph; `noise` is its kind of noise."""

    config_type: type[StrictModel]
    build: "Callable[[Any, int], Graph]"
    noise: str

    @property
    def absorbing(self) -> bool:
        """True if noise is one mask token."""
        return self.noise == ABSORBING


class ScheduleEntry(NamedTuple):
    """Noise schedule: `build(config)` returns a NoiseSchedule; if `discrete`, the config has `num_steps`."""

    config_type: type[StrictModel]
    build: "Callable[[Any], NoiseSchedule]"
    discrete: bool


class ObjectiveEntry(NamedTuple):
    """Training objective: `build(config, process)` returns an Objective.

    Fields:
        noises: kinds of noise that it fits, None for any.
        time_conditioning: True if its networks take sigma by default.
        blockwise: True if its network predicts one block of tokens after another and is built for that.
        discrete_time: True if it needs a number of steps, from its own config's `num_steps` or the schedule's.
        variable_length: True if it inserts tokens, so that its networks learn the lengths of rows.
    """

    config_type: type[StrictModel]
    build: "Callable[[Any, DiffusionProcess], Objective]"
    noises: tuple[str, ...] | None
    time_conditioning: bool
    blockwise: bool
    discrete_time: bool
    variable_length: bool = False

    def fits(self, process: ProcessEntry) -> bool:
        """Return True if the objective is defined for the noise of a process."""
        return self.noises is None or process.noise in self.noises


class SamplerEntry(NamedTuple):
    """Sampler: `build(config, process, denoiser, steps)` returns a Sampler.

    Fields:
        absorbing_only: True if it fits absorbing noise only.
        blockwise: True if it can sample from the network of a blockwise objective.
        accuracy: of the sample distribution where the network is exact: "exact"; "convergent", exact in the limit of
            many steps; or "neither".
        summary: what it does, for tables.
        variable_length: True if it inserts tokens, for the objectives that do.
    """

    config_type: type[StrictModel]
    build: "Callable[[Any, DiffusionProcess, Denoiser, int], Sampler]"
    absorbing_only: bool
    blockwise: bool
    accuracy: Accuracy
    summary: str
    variable_length: bool = False

    def fits(self, *, absorbing: bool, blockwise: bool = False, variable_length: bool = False) -> bool:
        """Return True if the sampler fits a process and an objective with these properties."""
        fits_process = absorbing or not self.absorbing_only
        return fits_process and (self.blockwise or not blockwise) and self.variable_length == variable_length


PROCESSES: Registry[ProcessEntry] = Registry(
    "process", "model_factory.processes", "model_factory.diffusion.processes.built_in"
)
SCHEDULES: Registry[ScheduleEntry] = Registry(
    "schedule", "model_factory.schedules", "model_factory.diffusion.processes.built_in"
)
OBJECTIVES: Registry[ObjectiveEntry] = Registry(
    "objective", "model_factory.objectives", "model_factory.diffusion.objectives.built_in"
)
SAMPLERS: Registry[SamplerEntry] = Registry(
    "sampler", "model_factory.samplers", "model_factory.diffusion.samplers.built_in"
)


class PlainConfig(StrictModel):
    """A part without settings."""

    type: str


def register_process(
    name: str, *, config: type[StrictModel] = PlainConfig, noise: str | None = None
) -> Callable[[Builder], Builder]:
    """Register the decorated builder `(config, num_tokens) -> Graph` under `name`.

    `noise` is its kind of noise, by default its name: objectives name the kinds that they fit. A custom process with
    `noise="absorbing"` or `noise="uniform"` fits what the built-in one fits. Raises ValueError if the name is taken.
    """
    keys = section_type(name, config, StrictModel)
    return PROCESSES.decorator(name, lambda build: ProcessEntry(keys, build, noise or name))


def register_schedule(
    name: str, *, config: type[StrictModel] = PlainConfig, discrete: bool = False
) -> Callable[[Builder], Builder]:
    """Register the decorated builder `(config) -> NoiseSchedule` under `name`.

    A `discrete` schedule has `num_steps` in its config. Raises ValueError if the name is taken.
    """
    keys = section_type(name, config, StrictModel)
    return SCHEDULES.decorator(name, lambda build: ScheduleEntry(keys, build, discrete))


def register_objective(
    name: str,
    *,
    config: type[StrictModel] = PlainConfig,
    noises: tuple[str, ...] | None = None,
    time_conditioning: bool = True,
    blockwise: bool = False,
    discrete_time: bool = False,
    variable_length: bool = False,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder `(config, process) -> Objective` under `name`.

    The keywords are described at `ObjectiveEntry`. Raises ValueError if the name is taken.
    """
    keys = section_type(name, config, StrictModel)
    facts = (noises, time_conditioning, blockwise, discrete_time, variable_length)
    return OBJECTIVES.decorator(name, lambda build: ObjectiveEntry(keys, build, *facts))


def register_sampler(
    name: str,
    *,
    config: type[StrictModel] = PlainConfig,
    absorbing_only: bool = False,
    blockwise: bool = False,
    accuracy: Accuracy = "neither",
    summary: str = "custom",
    variable_length: bool = False,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder `(config, process, denoiser, steps) -> Sampler` under `name`.

    The keywords are described at `SamplerEntry`. Raises ValueError if the name is taken.
    """
    keys = section_type(name, config, StrictModel)
    facts = (absorbing_only, blockwise, accuracy, summary, variable_length)
    return SAMPLERS.decorator(name, lambda build: SamplerEntry(keys, build, *facts))


def processes_of(objective: str) -> tuple[str, ...]:
    """Return the names of the processes that an objective fits."""
    entry = OBJECTIVES.get(objective)
    return tuple(name for name in PROCESSES if entry.fits(PROCESSES.get(name)))


def samplers_of(process: str, objective: str) -> tuple[str, ...]:
    """Return the samplers of a process and an objective, the default first."""
    absorbing, entry = PROCESSES.get(process).absorbing, OBJECTIVES.get(objective)
    names = fitting_samplers(absorbing=absorbing, blockwise=entry.blockwise, variable_length=entry.variable_length)
    default = default_sampler_name(absorbing=absorbing)
    return tuple(sorted(names, key=lambda name: name != default))  # sorting is stable


def fitting_samplers(*, absorbing: bool, blockwise: bool = False, variable_length: bool = False) -> list[str]:
    """Return the samplers of a kind of noise and objective, in the order of registration."""
    facts = {"absorbing": absorbing, "blockwise": blockwise, "variable_length": variable_length}
    return [name for name in SAMPLERS if SAMPLERS.get(name).fits(**facts)]


def default_sampler_name(*, absorbing: bool) -> str:
    """Return first-hitting, which is exact, for absorbing noise, ancestral for other noise."""
    return "first_hitting" if absorbing else "ancestral"


def combinations() -> Iterator[tuple[str, str, str, str]]:
    """Yield every valid (process, schedule, objective, sampler)."""
    for objective in OBJECTIVES:
        for process in processes_of(objective):
            for schedule in SCHEDULES:
                for sampler in samplers_of(process, objective):
                    yield process, schedule, objective, sampler
