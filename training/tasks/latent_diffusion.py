"""Latent diffusion: an autoencoder of texts, then a diffusion of its latents, or both together."""

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
    """The loss of the step's stage, in `training.stages`; an evaluation measures everything."""

    generation: ClassVar[Mapping[str, Any]] = {"temperature": 0.0}  # the likeliest text of a latent
    rows_shown: ClassVar[int] = SHOWN

    def __init__(self, setting: TaskSetting) -> None:
        super().__init__(setting)
        self.encoder_texts: EncoderTexts | None = None
        self.told: StageConfig | None = None
        assert setting.config.model is not None
        section = setting.config.model.config
        assert isinstance(section, LatentDiffusionConfig)
        self.section = section
        path = getattr(section.encoder, "path", None)
        if setting.tokenizer is None:
            raise UnfitError("a latent diffusion model writes texts, and the data set has no tokenizer")
        decoder_path = getattr(section.decoder, "path", None)
        if decoder_path is not None:
            check_decoder_tokenizer(decoder_path, setting.tokenizer)
        if path is not None:
            self.encoder_texts = EncoderTexts(path, setting.tokenizer)

    def check(self, network: nn.Module) -> None:
        """Several processes must know that a stage leaves some weights alone."""
        from training.distributed import world_size

        settings = self.setting.training
        trained = {stage.train for stage, _ in resolve_stages(settings)}
        if world_size() > 1 and trained != {"joint"} and not settings.ddp_find_unused_parameters:
            raise UnfitError(
                "in each stage of a latent diffusion model some weights take no part, which several processes must be "
                "told: set training.ddp_find_unused_parameters: true"
            )
        if settings.fsdp:
            raise UnfitError("fsdp shares out weights that take part in every step; leave it out: DDP fits this model")

    def rates(self) -> Callable[[int], float]:
        """Each stage has a course of its own."""
        from training.stage_rates import stage_lr_factors

        return stage_lr_factors(self.setting.training)

    def weight(self, batch: Batch) -> Tensor:
        """Texts."""
        return torch.tensor(float(len(batch["input_ids"])), device=batch["input_ids"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss; nats a token of the reconstruction, nats a text of the KL, and the diffusion's squared error."""
        noise = batch["noise"]
        moment = locate_step(self.setting.training, noise.step)
        stage = moment.stage.train if network.training else "joint"
        if network.training:
            self._tell(moment)
        read = self.encoder_inputs(batch)
        output = network(
            batch["input_ids"],
            batch.get("attention_mask"),
            encoder_ids=None if read is None else read[0],
            encoder_mask=None if read is None else read[1],
            stage=stage,
            kl_share=self._kl_share(moment) if network.training else 1.0,
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
        """Ids int64 [B, M] and mask bool [B, M] as the encoder reads them, where it has a tokenizer of its own."""
        if self.encoder_texts is None:
            return None
        return self.encoder_texts(batch["input_ids"], real_tokens(batch))

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Some texts with what the decoder makes of their latents, and texts of latents that the diffusion draws."""
        assert isinstance(network, LatentDiffusionModel)
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        assert tokenizer is not None
        real = real_tokens(batch)
        ids, mask = batch["input_ids"][:SHOWN], real[:SHOWN]
        read = self.encoder_inputs({"input_ids": ids, "attention_mask": mask}) or (ids, mask)
        sampler = cast(Literal["ancestral", "ddim"], settings.sampler_name or "ancestral")
        drawn = network.sample_latents(settings.num_samples, settings.steps, sampler, generator)
        rebuilt = self._texts(network, network.encode(*read))
        sources = [tokenizer.decode(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
        pairs = [f"text    {source}\nrebuilt {text}" for source, text in zip(sources, rebuilt, strict=True)]
        return [*pairs, *(f"drawn   {text}" for text in self._texts(network, drawn))]

    def _texts(self, network: LatentDiffusionModel, latents: Tensor) -> list[str]:
        tokenizer, settings = self.setting.tokenizer, self.setting.generation
        assert tokenizer is not None
        longest = network.decoder.transformer.max_length
        new = settings.max_new_tokens if longest is None else min(settings.max_new_tokens, longest - 1)
        ends = {"eos_token": tokenizer.eos_token_id, "pad_token": tokenizer.pad_token_id}
        rows = network.decode(latents, tokenizer.bos_token_id, new, **ends)[:, 1:].tolist()
        return [tokenizer.decode(_until(row, tokenizer.eos_token_id)) for row in rows]

    def _tell(self, moment: StageStep) -> None:
        """Say once that a stage begins: what the loss means changes with it."""
        from training.distributed import is_main

        if is_main() and moment.stage != self.told:
            print(f"stage {moment.stage.train}, {moment.steps:,} steps", flush=True)
        self.told = moment.stage

    def _kl_share(self, moment: StageStep) -> float:
        latent = self.section.resolved.latent
        return cyclical_weight(moment.step, moment.steps, latent.kl_cycles, latent.kl_ramp)


def _until(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
