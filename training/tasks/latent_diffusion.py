"""Task latent diffusion: train an autoencoder of texts, then a diffusion of its latents, or both jointly."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from model.latent.model import LatentDiffusionModel
from model.latent.types import LatentDiffusionConfig
from model.latent.variational import cyclical_weight
from training.encoder_texts import EncoderTexts, check_decoder_tokenizer
from training.errors import UnfitError
from training.stage_types import StageConfig
from training.stages import StageStep, locate_step, resolve_stages
from training.tasks.base import Batch, Task, TaskSetting, real_tokens

SHOWN = 4


class LatentDiffusion(Task):
    """Loss of the current stage of `training.stages`; an evaluation computes all losses."""

    generation: ClassVar[Mapping[str, Any]] = {"temperature": 0.0}  # greedy decoding of a latent
    rows_shown: ClassVar[int] = SHOWN

    def __init__(self, setting: TaskSetting) -> None:
        super().__init__(setting)
        self.encoder_texts: EncoderTexts | None = None
        self.last_stage: StageConfig | None = None
        assert setting.config.model is not None
        section = setting.config.model.config
        assert isinstance(section, LatentDiffusionConfig)
        self.section = section
        path = getattr(section.encoder, "path", None)
        if setting.tokenizer is None:
            raise UnfitError(
                "a latent diffusion model needs a data set with a tokenizer; add tokenizer: {type: characters} to it"
            )
        decoder_path = getattr(section.decoder, "path", None)
        if decoder_path is not None:
            check_decoder_tokenizer(decoder_path, setting.tokenizer)
        if path is not None:
            self.encoder_texts = EncoderTexts(path, setting.tokenizer)

    def check(self, network: nn.Module) -> None:
        """Raise UnfitError for settings under which DDP or FSDP fails, as each stage leaves some weights unused."""
        from training.distributed import world_size

        settings = self.setting.training
        trained = {stage.train for stage, _ in resolve_stages(settings)}
        if world_size() > 1 and trained != {"joint"} and not settings.ddp_find_unused_parameters:
            raise UnfitError(
                "each stage of a latent diffusion model leaves some weights unused, which DDP does not allow by default; "
                "set training.ddp_find_unused_parameters: true"
            )
        if settings.fsdp:
            raise UnfitError(
                "training.fsdp needs weights that are used in every step; leave it out to train this model with DDP"
            )

    def rates(self) -> Callable[[int], float]:
        """Return a schedule that restarts in each stage."""
        from training.stage_rates import stage_lr_factors

        return stage_lr_factors(self.setting.training)

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of texts."""
        return torch.tensor(float(len(batch["input_ids"])), device=batch["input_ids"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss, reconstruction (nats per token), KL (nats per text) and the diffusion's squared error."""
        noise = batch["noise"]
        moment = locate_step(self.setting.training, noise.step)
        stage = moment.stage.train if network.training else "joint"
        if network.training:
            self._announce_stage(moment)
        inputs = self.encoder_inputs(batch)
        output = network(
            batch["input_ids"],
            batch.get("attention_mask"),
            encoder_ids=None if inputs is None else inputs[0],
            encoder_mask=None if inputs is None else inputs[1],
            stage=stage,
            kl_share=self._kl_factor(moment) if network.training else 1.0,
            encoder_share=moment.encoder_share if network.training else 1.0,
            rows=noise.place,
            batch_size=noise.batch_size,
            seed=noise.step_seed,
        )
        if not network.training:
            measured: dict[str, Tensor] = output._asdict()
            return measured
        parts = {"autoencoder": ("reconstruction", "kl"), "diffusion": ("diffusion",)}
        shown = parts.get(stage, ("reconstruction", "kl", "diffusion"))
        return {"loss": output.loss} | {name: getattr(output, name) for name in shown}

    def encoder_inputs(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Retokenise a batch to ids int64 [B, M] and mask bool [B, M], None if the encoder has no other tokenizer."""
        if self.encoder_texts is None:
            return None
        return self.encoder_texts(batch["input_ids"], real_tokens(batch))

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Return some texts with their reconstructions, and texts decoded from sampled latents."""
        assert isinstance(network, LatentDiffusionModel)
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        assert tokenizer is not None
        real = real_tokens(batch)
        ids, mask = batch["input_ids"][:SHOWN], real[:SHOWN]
        inputs = self.encoder_inputs({"input_ids": ids, "attention_mask": mask}) or (ids, mask)
        sampler = cast(Literal["ancestral", "ddim"], settings.sampler_name or "ancestral")
        drawn = network.sample_latents(settings.num_samples, settings.steps, sampler, generator)
        rebuilt = self._decode_latents(network, network.encode(*inputs))
        sources = [tokenizer.decode(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
        pairs = [f"text    {source}\nrebuilt {text}" for source, text in zip(sources, rebuilt, strict=True)]
        return [*pairs, *(f"drawn   {text}" for text in self._decode_latents(network, drawn))]

    def _decode_latents(self, network: LatentDiffusionModel, latents: Tensor) -> list[str]:
        """Decode latents greedily to texts."""
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        assert tokenizer is not None
        longest = network.decoder.transformer.max_length
        new = settings.max_new_tokens if longest is None else min(settings.max_new_tokens, longest - 1)
        ends = {"eos_token": tokenizer.eos_token_id, "pad_token": tokenizer.pad_token_id}
        rows = network.decode(latents, tokenizer.bos_token_id, new, **ends)[:, 1:].tolist()
        return [tokenizer.decode(_cut_at(row, tokenizer.eos_token_id)) for row in rows]

    def _announce_stage(self, moment: StageStep) -> None:
        """Print once that a stage begins, because the meaning of the loss changes with it."""
        from training.distributed import is_main

        if is_main() and moment.stage != self.last_stage:
            print(f"stage {moment.stage.train}, {moment.steps:,} steps", flush=True)
        self.last_stage = moment.stage

    def _kl_factor(self, moment: StageStep) -> float:
        """Return the factor on the KL term at a step of its stage."""
        latent = self.section.resolved.latent
        return cyclical_weight(moment.step, moment.steps, latent.kl_cycles, latent.kl_ramp)


def _cut_at(row: list[int], end: int) -> list[int]:
    """Return the tokens before the first `end`."""
    return row[: row.index(end)] if end in row else row
