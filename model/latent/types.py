"""Section of `model_type: latent_diffusion`: encoder, decoder, latent, denoiser, diffusion; no torch is imported."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from model.latent.registry import (
    LATENT_DECODERS,
    LATENT_DENOISERS,
    LATENT_ENCODERS,
    LATENT_SAMPLERS,
    LATENT_SCHEDULES,
)
from model.registry import register_model
from model.types import AnyOf, Device, Size
from model_factory.yaml_config.from_registry import FromRegistry, name_of
from model_factory.yaml_config.strict_model import StrictModel, Violation

if TYPE_CHECKING:
    from model.latent.model import LatentDiffusionModel

PUBLISHED_VARIANCE = 0.008
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]


def _learnt(value: Any) -> Any:
    if isinstance(value, str) and value != "learnt":
        raise ValueError("must be learnt, or a number above 0")
    return value


Variance = Annotated[
    Annotated[Literal["learnt"], Tag("learnt")] | Annotated[Positive, Tag("number")],
    Discriminator(lambda value: "learnt" if isinstance(value, str) else "number"),
    BeforeValidator(_learnt),
    AnyOf(),
]
Beta = Annotated[float, Field(gt=0, lt=1)]


class LatentConfig(StrictModel):
    """The latent: its size, its distribution, and its regularisation towards N(0, I)."""

    size: Size = 64
    """Size of a latent. [coordinates]"""
    variance: Variance = "learnt"
    """learnt by the encoder, or a number: the same for all. [1]"""
    kl_weight: NotNegative = 0.1
    """Weight of KL(q(z | text) || N(0, I)) beside the reconstruction, both in nats. [1]"""
    free_bits: NotNegative = 0.0
    """Nats of each coordinate below which the KL costs nothing (Kingma et al. 2016, arXiv 1606.04934). [nats]"""
    kl_cycles: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of times that kl_weight rises from 0 while the autoencoder is trained (Fu et al. 2019, arXiv 1903.10145);
    0: constant. [cycles]"""
    kl_ramp: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a cycle in which it rises. [share]"""
    decoder_noise: NotNegative = 0.0
    """Standard deviation of noise added to the latent in front of the decoder, in training. [1]"""
    diffused: Literal["mean", "draw"] = "mean"
    """Data of the diffusion: the mean of each latent, whose structure no noise hides, or a draw (as published)."""
    normalise: bool = True
    """Normalise latents to mean 0 and variance 1 in each coordinate for the diffusion."""

    def violations(self) -> Iterator[Violation]:
        """Yield a kl_ramp without cycles."""
        if self.kl_cycles == 0 and "kl_ramp" in self.model_fields_set and self.kl_ramp != 0.5:
            yield Violation(
                "kl_ramp is used by cycles, and kl_cycles is 0", ("kl_ramp",), (("kl_cycles",),), "kl_cycles: 1"
            )


class GaussianConfig(StrictModel):
    """Gaussian diffusion of latents (DDPM, Ho et al. 2020, arXiv 2006.11239)."""

    num_steps: Annotated[int, Field(gt=0, le=1_000_000)] = 1000
    """Steps T from a latent to noise. [steps]"""
    schedule: Annotated[StrictModel | str, FromRegistry(LATENT_SCHEDULES, names="kept")] = "cosine"
    """linear from beta_start to beta_end, cosine (arXiv 2102.09672), constant at beta_start, or a registered one."""
    beta_start: Beta | None = None
    """For linear and constant: the first beta; None: 0.1 / num_steps, and 8 / num_steps of constant. [1]"""
    beta_end: Beta | None = None
    """For linear: the last beta; None: 20 / num_steps, at most 0.999. [1]"""
    prediction: Literal["noise", "x0", "v"] = "v"
    """Output of the denoiser: the noise, the latent, or v (Salimans and Ho 2022, arXiv 2202.00512)."""
    self_conditioning: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of rows that get a first estimate of x_0 as input (Chen et al. 2022, arXiv 2208.04202). [probability]"""
    weight: NotNegative = 1.0
    """For joint training: weight of the diffusion loss beside that of the autoencoder. [1]"""
    weighting: Literal["uniform", "inverse"] = "uniform"
    """For joint training: equal weights of texts, or 1 / (weight of the text's time * num_steps) each."""

    def violations(self) -> Iterator[Violation]:
        """Yield betas that the schedule does not read, and a last beta below the first."""
        name = name_of(self.schedule)
        reads = LATENT_SCHEDULES.get(name).reads
        for key in ("beta_end", "beta_start"):
            if getattr(self, key) is not None and key not in reads:
                yield Violation(f"schedule {name} has no {key}", (key,), (("schedule",),), "leave it out")
        if "beta_end" in reads and self.beta_end is not None and self.beta_end < (self.beta_start or 0.0):
            message = f"beta_end {self.beta_end} is below beta_start {self.beta_start}"
            yield Violation(message, ("beta_end",), (("beta_start",),), "the greater one as beta_end")

    @property
    def betas(self) -> tuple[float, float]:
        """Return the first and last beta, with defaults: beta * T of linear is that of Ho et al."""
        is_constant = LATENT_SCHEDULES.get(name_of(self.schedule)).reads == ("beta_start",)
        first = self.beta_start or min(0.999, (8.0 if is_constant else 0.1) / self.num_steps)
        if is_constant:
            return first, first
        return first, self.beta_end or max(first, min(0.999, 20.0 / self.num_steps))


_COMPAT: dict[str, dict[str, Any]] = {
    "latent": {
        "variance": PUBLISHED_VARIANCE,
        "kl_weight": 0.0,
        "free_bits": 0.0,
        "kl_cycles": 1,
        "diffused": "draw",
        "normalise": False,
        "decoder_noise": 0.0,
    },
    "diffusion": {
        "schedule": "constant",
        "beta_start": 0.008,
        "prediction": "noise",
        "self_conditioning": 0.0,
        "weighting": "inverse",
    },
}
"""Settings fixed by compat: dmlp."""


class LatentDiffusionConfig(StrictModel):
    """Variational autoencoder of texts, and a diffusion of its latents."""

    encoder: Annotated[StrictModel, FromRegistry(LATENT_ENCODERS)]
    """performer, hugging_face, or a connector by its name, such as BertForLatentConnector."""
    decoder: Annotated[StrictModel, FromRegistry(LATENT_DECODERS)]
    """performer, hugging_face, or a connector by its name, such as GPT2ForLatentConnector."""
    latent: LatentConfig = LatentConfig()
    """The latent."""
    denoiser: Annotated[StrictModel, FromRegistry(LATENT_DENOISERS)]
    """The denoising network: mlp, transformer, performer, linear, residual, or a registered one."""
    diffusion: GaussianConfig = GaussianConfig()
    """The noise."""
    compat: Literal["dmlp"] | None = None
    """dmlp: as published, with a variance of 0.008, a constant beta and the joint loss; None: better defaults."""
    device: Device = "auto"
    """auto (the accelerator if there is one, else cpu), cpu, cuda, cuda:N, mps or xpu."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Return the samplers that fit; the first is the default."""
        return tuple(LATENT_SAMPLERS)

    def violations(self) -> Iterator[Violation]:
        """Yield parts on another device, and settings that contradict compat."""
        for part in ("encoder", "decoder"):
            device = getattr(getattr(self, part), "device", "auto")
            if device not in ("auto", self.device):
                message = f"the {part} is on {device}, and the model on {self.device}; both must be on one device"
                yield Violation(message, (part, "device"), (("device",),), "leave it out")
        if self.compat is None:
            return
        for section, fixed in _COMPAT.items():
            given = getattr(self, section)
            for key, value in fixed.items():
                if key in given.model_fields_set and getattr(given, key) != value:
                    message = f"compat: dmlp sets {key} to {str(value).lower()}"
                    yield Violation(message, (section, key), (("compat",),), "leave it out, or leave compat out")

    @property
    def resolved(self) -> "LatentDiffusionConfig":
        """Return a copy with the settings fixed by compat."""
        if self.compat is None:
            return self
        update = {name: getattr(self, name).model_copy(update=fixed) for name, fixed in _COMPAT.items()}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _set_compat_defaults(self) -> "LatentDiffusionConfig":
        """Set what compat fixes, unless given, so that a file written from this config can be read again."""
        for section, fixed in _COMPAT.items() if self.compat else ():
            given = getattr(self, section)
            overlap = {key: getattr(given, key) for key in given.model_fields_set & fixed.keys()}
            if all(value == fixed[key] for key, value in overlap.items()):  # `violations` reports the others
                self.__dict__[section] = given.model_copy(update=fixed)  # this type is frozen
        return self

    def sized(self, vocab_size: int | None, length: int | None) -> "LatentDiffusionConfig":
        """Return a copy with the tokenizer's vocab_size in parts from scratch; raise ValueError if one is too small."""
        parts = {name: _sized(getattr(self, name), vocab_size, name) for name in ("encoder", "decoder")}
        return self.model_copy(update=parts)


def _sized(part: Any, vocab_size: int | None, name: str) -> Any:
    if vocab_size is None or not hasattr(part, "vocab_size") or getattr(part, "path", None) is not None:
        return part
    if part.vocab_size is not None and part.vocab_size < vocab_size:
        raise ValueError(
            f"{name}.vocab_size is {part.vocab_size}, and the data set's tokenizer has {vocab_size} tokens"
        )
    return part.model_copy(update={"vocab_size": part.vocab_size or vocab_size})


@register_model("latent_diffusion", config=LatentDiffusionConfig)
def _build(config: LatentDiffusionConfig) -> "LatentDiffusionModel":
    from model.latent.model import LatentDiffusionModel

    return LatentDiffusionModel(config)
