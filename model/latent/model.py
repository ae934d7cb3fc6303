"""Latent diffusion of texts as one module: an autoencoder, a diffusion of its latents, and their training losses."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from model.device import resolve_device
from model.latent.ddpm import DDPM, ddpm_schedule
from model.latent.decoder import LatentDecoder, text_loss
from model.latent.encoder import LatentEncoder
from model.latent.joint import joint_loss
from model.latent.normaliser import LatentNormaliser
from model.latent.registry import LATENT_DECODERS, LATENT_DENOISERS, LATENT_ENCODERS
from model.latent.variational import kl_cost, kl_divergence, reparameterise
from model.transformer.generation import evaluating
from model.transformer.inputs import InputError, check_mask, describe, has_values
from model_factory.diffusion.randomness import Randomness, RowGenerators, normal
from model_factory.diffusion.samplers.base import SamplerChoice
from model_factory.diffusion.time_strata import stratified_times

if TYPE_CHECKING:
    from model.latent.types import LatentDiffusionConfig

Stage = Literal["autoencoder", "diffusion", "joint"]
TIME_SCALE = 1000.0


class LatentOutput(NamedTuple):
    """Scalars: `loss`, reconstruction in nats a token, KL in nats a text, and the diffusion's squared error."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    diffusion: Tensor


class Draws(NamedTuple):
    """Random draws of a batch: noise of the latent [B, D], steps int64 [B] in 1 .. T, and a generator for each row."""

    noise: Tensor
    steps: Tensor
    streams: RowGenerators


class Chain(nn.Module):
    """Encoder, denoiser and decoder in sequence, for summaries: ids int [B, N] to logits [B, N, vocab_size]."""

    def __init__(self, model: "LatentDiffusionModel") -> None:
        super().__init__()
        self.encoder, self.denoiser, self.decoder = model.encoder, model.ddpm.eps_model, model.decoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return logits [B, N, vocab_size] of texts int [B, N] after one pass of the denoiser over their latents."""
        pooled = self.encoder(input_ids, torch.ones_like(input_ids)).pooled
        mu, _ = self.encoder.linear(pooled).chunk(2, -1)
        logits: Tensor = self.decoder(input_ids, self.denoiser(mu, mu.new_ones(len(mu))))[0]
        return logits


class LatentDiffusionModel(nn.Module):
    """Latent diffusion model built from a `LatentDiffusionConfig`, with its `encoder`, `decoder` and `ddpm`.

    Raises ConnectorError and HubError for a part that cannot be built, DeviceError for a device not on this machine.
    """

    def __init__(self, config: "LatentDiffusionConfig") -> None:
        super().__init__()
        self.latent_config = config = config.resolved
        latent, gaussian, size = config.latent, config.diffusion, config.latent.size
        kinds: Any = config.encoder, config.decoder, config.denoiser
        with resolve_device(config.device) as device:
            entries = LATENT_ENCODERS.get(kinds[0].type), LATENT_DECODERS.get(kinds[1].type)
            parts = [_with_device(part, config.device) for part in kinds[:2]]
            self.encoder: LatentEncoder = entries[0].build(parts[0], size)
            self.decoder: LatentDecoder = entries[1].build(parts[1], size)
            denoiser = LATENT_DENOISERS.get(kinds[2].type).build(kinds[2], size, 1.0 if config.compat else TIME_SCALE)
            self.ddpm = DDPM(
                denoiser,
                gaussian.betas,
                gaussian.num_steps,
                ddpm_schedule=partial(ddpm_schedule, kind=gaussian.schedule, compat=config.compat),
                prediction=gaussian.prediction,
                self_conditioning=gaussian.self_conditioning,
                compat=config.compat,
            )
            self.normaliser = LatentNormaliser(size) if latent.normalise else None
        if any(parameter.device.type != device.type for parameter in self.parameters()):
            self.to(device)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        encoder_ids: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        stage: Stage = "joint",
        kl_share: float = 1.0,
        encoder_share: float = 1.0,
        rows: Tensor | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> LatentOutput:
        """Return the losses of a stage over texts int [B, N], each beginning with the beginning-of-text token.

        Arguments:
            attention_mask: bool [B, N], True at real tokens.
            encoder_ids, encoder_mask: int and bool [B, M], the same texts by the encoder's tokenizer, if it differs.
            stage: autoencoder (reconstruction and KL), diffusion (of the latents of a frozen encoder), or joint; in
                evaluation all losses are computed, and the loss is that of joint.
            kl_share: factor of the KL's weight.
            encoder_share: factor of the diffusion's gradient to the encoder, in joint.
            rows, batch_size, seed: as in `DiffusionModel.forward`; they determine all draws.
        Raises InputError.
        """
        if stage not in get_args(Stage):
            raise InputError(f"stage is {stage!r}; use {', '.join(get_args(Stage))}")
        check_mask(attention_mask, input_ids, "attention_mask")
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
        read = (input_ids, mask) if encoder_ids is None else (encoder_ids, encoder_mask)
        draws = self._draws(len(input_ids), rows, batch_size, seed)
        is_frozen = stage == "diffusion" and self.training
        with torch.no_grad() if is_frozen else nullcontext(), evaluating(self.encoder) if is_frozen else nullcontext():
            mu, logvar = self.moments(*read)
            z = reparameterise(mu, logvar, draws.noise.to(mu.dtype))
        if is_frozen:
            diffusion = self._diffusion_loss(self.diffused(mu, z), mu, draws)[0].mean()
            zero = diffusion.detach().new_zeros(())
            return LatentOutput(diffusion, zero, zero, diffusion.detach())
        reconstruction, kl, loss = self._autoencoder_loss(z, mu, logvar, input_ids, mask, draws, kl_share)
        if stage == "autoencoder" and self.training:
            zero = loss.detach().new_zeros(())
            return LatentOutput(loss.mean(), reconstruction.detach().mean(), kl.detach().mean(), zero)
        latent = self.diffused(mu, z)
        scaled = latent.detach() + encoder_share * (latent - latent.detach())
        diffusion, weight = self._diffusion_loss(scaled, mu, draws)
        gaussian = self.latent_config.diffusion
        total = joint_loss(
            loss,
            diffusion,
            weight,
            gaussian.weight,
            gaussian.num_steps,
            weighting=gaussian.weighting,
            compat=self.latent_config.compat,
        )
        return LatentOutput(total, reconstruction.detach().mean(), kl.detach().mean(), diffusion.detach().mean())

    @property
    def network(self) -> "Chain":
        """Combine the three networks to one, for summaries."""
        return Chain(self)

    def moments(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar [B, size] of texts int [B, N] in the encoder's ids; the section may fix logvar."""
        mu, logvar = self.encoder.moments(ids, mask)
        variance = self.latent_config.latent.variance
        if variance != "learnt":
            logvar = torch.full_like(mu, float(variance)).log()
        return mu, logvar

    def diffused(self, mu: Tensor, z: Tensor) -> Tensor:
        """Select the diffusion's data before normalisation: means mu [B, size] or draws z [B, size]."""
        return mu if self.latent_config.latent.diffused == "mean" else z

    @torch.no_grad()
    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode texts int [B, N] in the encoder's ids to latents mu [B, size]."""
        with evaluating(self.encoder):
            return self.moments(ids, mask)[0]

    @torch.no_grad()
    def sample_latents(
        self,
        num_samples: int,
        steps: int | None = None,
        sampler: SamplerChoice = "ancestral",
        generator: Randomness = None,
        *,
        eta: float = 0.0,
        watch: Callable[[], object] | None = None,
    ) -> Tensor:
        """Sample latents [num_samples, size] from the diffusion, in `steps` steps or in all; `eta` is for ddim.

        `watch` is called after each step.
        """
        size = self.latent_config.latent.size
        with evaluating(self.ddpm):
            options: dict[str, Any] = {"steps": steps, "sampler": sampler, "eta": eta, "watch": watch}
            drawn = self.ddpm.sample(num_samples, size, self.device, generator=generator, **options)
        return drawn if self.normaliser is None else self.normaliser.invert(drawn)

    def decode(self, latent: Tensor, tokens: Tensor | int, max_new_tokens: int, **options: Any) -> Tensor:
        """Decode latents [B, size] to texts int64 [B, N + T] after prompts [B, N] or a first token."""
        return self.decoder.generate(latent, tokens, max_new_tokens, **options)

    def _autoencoder_loss(
        self, z: Tensor, mu: Tensor, logvar: Tensor, ids: Tensor, mask: Tensor, draws: Draws, kl_share: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction in nats a token, KL in nats, and the loss, each [B]."""
        latent = self.latent_config.latent
        counts = mask[:, 1:].sum(1)
        if has_values(counts) and not bool((counts > 0).all()):
            empty = (counts == 0).nonzero()[:, 0].tolist()
            raise InputError(f"texts {empty[:5]} of the batch {describe(ids)} have no token after the first; drop them")
        if self.training and self.normaliser is not None:
            self.normaliser.observe(self.diffused(mu, z))
        noisy = z
        if self.training and latent.decoder_noise:
            noisy = z + latent.decoder_noise * normal(z.shape, draws.streams, z.device, z.dtype)
        if isinstance(self.decoder, LatentDecoder):
            nats = self.decoder.nats(ids, noisy, mask)
        else:
            nats = text_loss(self.decoder(ids, noisy, attention_mask=mask)[0], ids, mask)
        kl = kl_divergence(mu, logvar)
        loss = nats
        if latent.kl_weight * kl_share:
            loss = nats + latent.kl_weight * kl_share * kl_cost(kl, latent.free_bits)
        lengths = mask.sum(1) if self.latent_config.compat else counts
        return nats / counts, kl.sum(-1), loss / lengths

    def _diffusion_loss(self, z: Tensor, mu: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the squared error [B], and the weights [B, 1] of the drawn times."""
        if self.normaliser is not None:
            z, mu = self.normaliser(z), self.normaliser(mu)
        loss, weight = self.ddpm(z, mu, t=draws.steps, generator=draws.streams)
        return loss, weight

    def _draws(self, count: int, rows: Tensor | None, batch_size: int | None, seed: int | None) -> Draws:
        rows = torch.arange(count) if rows is None else rows
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        streams = RowGenerators.from_seed(seed, rows.to(self.device))
        times = stratified_times(rows, batch_size or count, seed).to(self.device)
        steps = (times * self.ddpm.n_T).ceil().long().clamp(1, self.ddpm.n_T)
        size = (count, self.latent_config.latent.size)
        return Draws(normal(size, streams, self.device), steps, streams)


def _with_device(part: Any, device: str) -> Any:
    """Set the model's device in a part's section, if that has a device."""
    return part.model_copy(update={"device": device}) if hasattr(part, "device") else part
