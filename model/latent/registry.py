"""Registries of the parts of a latent diffusion model; no torch is imported.

Each kind of part has a decorator, and an entry-point group in which an installed package can name its module:

| key in the file | decorator | builder | group |
| --- | --- | --- | --- |
| `encoder` | `register_latent_encoder` | `(config, latent_size) -> LatentEncoder` | `model_factory.latent_encoders` |
| `decoder` | `register_latent_decoder` | `(config, latent_size) -> LatentDecoder` | `model_factory.latent_decoders` |
| `denoiser` | `register_latent_denoiser` | `(config, latent_size, time_scale)` | `model_factory.latent_denoisers` |
| `pooling` | `register_latent_pooler` | `(config, width, pretrained)` | `model_factory.latent_poolers` |
| `routes` | `register_latent_route` | `(config, latent_size, out_features)` | `model_factory.latent_routes` |
| `schedule` | `register_latent_schedule` | `(config, num_steps, betas)` | `model_factory.latent_schedules` |

A sampler of latents, which `generation.sampler` names, is a function with a config: see `register_latent_sampler`.

A custom part is one file, loaded by `--plugin MODULE` or through its group. Import torch inside the builder, so that
checking a file stays fast:

    class SharpMeanConfig(StrictModel):
        power: float = 2.0

    @register_latent_pooler("sharp_mean", config=SharpMeanConfig)
    def build(config, width, pretrained):
        from my_package.pooling import SharpMean

        return SharpMean(width, config.power)

The file then has `pooling: sharp_mean`, or `pooling: {type: sharp_mean, power: 3.0}`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel

from model_factory.diffusion.registry import SAMPLERS
from model_factory.yaml_config.from_registry import name_of, section_type
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel

Builder = TypeVar("Builder", bound=Callable[..., Any])
Entry = TypeVar("Entry", bound="PartEntry | RouteEntry | ScheduleEntry | LatentSamplerEntry")

RouteTarget = Literal["embedding", "memory", "cross_attention", "soft_prompt"]
"""Inputs of a decoder that a route can feed; `model.latent.connectors.injection` describes them."""
BetaKey = Literal["beta_start", "beta_end"]


class PartConfig(StrictModel):
    """Part without keys besides `type`."""


class PartEntry(NamedTuple):
    """Type of a part's section in the file, and its builder, `(config, ...) -> nn.Module`."""

    config_type: type[StrictModel]
    build: Callable[..., Any]


class RouteEntry(NamedTuple):
    """A route, and the decoder input that it feeds."""

    config_type: type[StrictModel]
    build: Callable[..., Any]
    target: RouteTarget


class ScheduleEntry(NamedTuple):
    """A noise schedule, and the keys of the section `diffusion` that it reads."""

    config_type: type[StrictModel]
    build: Callable[..., Any]
    reads: tuple[BetaKey, ...]


class LatentSamplerEntry(NamedTuple):
    """Type of a sampler's section in the file, and its step."""

    config_type: type[StrictModel]
    step: Callable[..., Any]


_BUILT_IN = "model.latent.parts"


def _registry(kind: str, group: str) -> Registry[Any]:
    return Registry(kind, f"model_factory.{group}", _BUILT_IN)


LATENT_ENCODERS: Registry[PartEntry] = _registry("latent encoder", "latent_encoders")
LATENT_DECODERS: Registry[PartEntry] = _registry("latent decoder", "latent_decoders")
LATENT_DENOISERS: Registry[PartEntry] = _registry("latent denoiser", "latent_denoisers")
LATENT_POOLERS: Registry[PartEntry] = _registry("latent pooler", "latent_poolers")
LATENT_ROUTES: Registry[RouteEntry] = _registry("latent route", "latent_routes")
LATENT_SCHEDULES: Registry[ScheduleEntry] = _registry("latent schedule", "latent_schedules")
LATENT_SAMPLERS: Registry[LatentSamplerEntry] = _registry("latent sampler", "latent_samplers")
"""Samplers of latents; the first is the default."""
LATENT_PARTS: tuple[Registry[Any], ...] = (
    LATENT_ENCODERS,
    LATENT_DECODERS,
    LATENT_DENOISERS,
    LATENT_POOLERS,
    LATENT_ROUTES,
    LATENT_SCHEDULES,
    LATENT_SAMPLERS,
)


def register_latent_encoder(name: str, *, config: type[BaseModel] | None = None) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size) -> LatentEncoder`; raise ValueError if the name is taken.

    `config` is a pydantic type of the part's own keys, checked with the file. Without it the part has no keys.
    The same holds for the other decorators.
    """
    return _register(LATENT_ENCODERS, name, config, PartEntry)


def register_latent_decoder(name: str, *, config: type[BaseModel] | None = None) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size) -> LatentDecoder`; raise ValueError if the name is taken."""
    return _register(LATENT_DECODERS, name, config, PartEntry)


def register_latent_denoiser(name: str, *, config: type[BaseModel] | None = None) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size, time_scale) -> nn.Module`; raise ValueError if the name is taken.

    The module's `forward(x, t, z_sem=None)` maps x [B, latent_size] at times t [B] in (0, 1] to the shape of x.
    `time_scale` is the factor by which to multiply t before embedding it.
    """
    return _register(LATENT_DENOISERS, name, config, PartEntry)


def register_latent_pooler(name: str, *, config: type[BaseModel] | None = None) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, width, pretrained) -> nn.Module`; raise ValueError if the name is taken.

    The module's `forward(hidden, mask)` maps hidden states [B, N, width] and mask bool [B, N] to a vector [B, width].
    `pretrained` is a `model.latent.connectors.pooling.PretrainedPooler`, the layers of the backbone's own pooler.
    """
    return _register(LATENT_POOLERS, name, config, PartEntry)


def register_latent_route(
    name: str, *, target: RouteTarget, config: type[BaseModel] | None = None
) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, latent_size, out_features) -> nn.Module`; raise ValueError if the name is taken.

    The module maps latents [B, latent_size] to [B, out_features]: all numbers of the decoder input `target`.
    Raises ValueError for an unknown target.
    """
    if target not in get_args(RouteTarget):
        raise ValueError(
            f"target {target!r} of latent route {name!r} is unknown; use {', '.join(get_args(RouteTarget))}"
        )
    return _register(LATENT_ROUTES, name, config, lambda config_type, build: RouteEntry(config_type, build, target))


def register_latent_schedule(
    name: str, *, reads: tuple[BetaKey, ...] = (), config: type[BaseModel] | None = None
) -> Callable[[Builder], Builder]:
    """Register the decorated `(config, num_steps, betas) -> Tensor`; raise ValueError if the name is taken.

    The builder returns beta of the steps 1 .. num_steps, float [num_steps], each in (0, 1). `betas` are the first and
    last beta of the section `diffusion`; a file may set `beta_start` and `beta_end` only if they are in `reads`.
    """
    return _register(
        LATENT_SCHEDULES, name, config, lambda config_type, build: ScheduleEntry(config_type, build, reads)
    )


def register_latent_sampler(name: str, *, config: type[BaseModel] | None = None) -> Callable[[Builder], Builder]:
    """Register the decorated step of a sampler of latents; raise ValueError if the name is taken.

    The step is called as `step(config, diffusion, x_t, x_0, t, s, draw, variance) -> x_s` for each time t and the next
    one s < t. `diffusion` is a `model_factory.diffusion.gaussian.GaussianDiffusion`; x_t, x_s and the estimate x_0 of the
    latent are [B, size]; `draw()` returns standard normal noise of that shape; `variance` is posterior or forward.
    `generation.sampler` names a sampler of tokens or of latents, so one with keys needs a name that no sampler of tokens
    has; ValueError otherwise.
    """
    if config is not None and name in SAMPLERS:
        raise ValueError(f"{name!r} is the name of a sampler of tokens, and this one has keys; give it another name")
    return _register(LATENT_SAMPLERS, name, config, LatentSamplerEntry)


def resolve_part(registry: Registry[Entry], part: StrictModel | str) -> tuple[Entry, Any]:
    """Return the entry and the section of a part given by name or by section; raise UnknownNameError."""
    entry = registry.get(name_of(part))
    return entry, entry.config_type(type=part) if isinstance(part, str) else part  # type: ignore[call-arg]


def _register(
    registry: Registry[Entry],
    name: str,
    config: type[BaseModel] | None,
    entry: Callable[[type[StrictModel], Callable[..., Any]], Entry],
) -> Callable[[Builder], Builder]:
    keys = section_type(name, config or PartConfig, StrictModel)
    return registry.decorator(name, lambda build: entry(keys, build))
