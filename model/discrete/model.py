"""A discrete diffusion model: a process, an objective and a network in one module, for training and sampling."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from model.denoisers.blocks import BlockReader, Blocks
from model.denoisers.calling import AnchoredCall, DenoiserCall, build_backbone
from model.denoisers.encoder_types import reads_source
from model.denoisers.view import BackboneView
from model.device import resolve_device
from model.discrete.inputs import check_condition, check_level, check_noisy
from model.discrete.noise_drawer import DrawnNoise, LossWeighting, NoiseDrawer, check_weighting, terms_of
from model.discrete.output import DiffusionOutput, reduce_parts
from model.discrete.source import Context, drop_sources, encode_source, null_source
from model.evaluation_mode import evaluation_mode
from model.head_loss import HeadWeights, head_loss
from model.transformer.inputs import InputError, check_documents, check_mask, describe
from model_factory.diffusion.objectives.losses import Objective
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import Randomness
from model_factory.diffusion.registry import OBJECTIVES, PROCESSES, SCHEDULES
from model_factory.diffusion.samplers.base import SamplerChoice
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.sampling import sample
from model_factory.diffusion.samplers.state import SamplerState

if TYPE_CHECKING:
    from model.discrete.types import DiffusionConfig


def build_mathematics(config: "DiffusionConfig") -> tuple[DiffusionProcess, Objective]:
    """Build process and objective of a section whose vocab_size is set."""
    process: Any = config.process
    schedule: Any = config.schedule
    objective: Any = config.objective
    assert config.vocab_size is not None
    graph = PROCESSES.get(process.type).build(process, config.vocab_size)
    built = DiffusionProcess(*graph.at_pace(SCHEDULES.get(schedule.type).build(schedule)))
    return built, OBJECTIVES.get(objective.type).build(objective, built)


class DiffusionModel(nn.Module):
    """Discrete diffusion model of a `DiffusionConfig`, with `process`, `objective` and `network`.

    Raises ValueError without a vocab_size, BackboneError for a network that cannot be built, DenoiserCallError for a
    network that lacks an input the section needs, DeviceError for a device that this machine lacks.
    """

    def __init__(self, config: "DiffusionConfig") -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError(
                "a diffusion model needs vocab_size: set it in the model's section, or add a data set with a tokenizer"
            )
        self.diffusion_config, self.is_time_conditioned = config, config.is_time_conditioned
        self.num_tokens = config.vocab_size
        with unset_fake_temporarily():  # a few numbers, which a summary on fake tensors needs too
            self.process, self.objective = build_mathematics(config)
            self.drawer = NoiseDrawer(config, self.process, self.objective)
            self.has_row_form = self.drawer.has_row_form
        graph = self.process.graph
        with resolve_device(config.backbone.device) as device:
            extra = self.objective.extra_outputs(config.sequence_length)
            self.width, self.inserts = graph.dim + extra, extra > 0
            self.network = build_backbone(config.backbone.type, BackboneView(config.backbone_values()), self.width)
        if any(p.device.type != device.type for p in self.network.parameters()):
            self.network.to(device)  # the builder set a device itself
        levels = None if graph.absorbing else config.backbone
        self.call = AnchoredCall(self.network, graph.dim) if self.inserts else DenoiserCall(self.network, levels)
        if config.condition is not None:
            self.call.require("cond", "the section has a condition")
        self.has_encoder = reads_source(config.backbone)
        if self.has_encoder:
            self.call.require("context", "the backbone has an encoder")
        self.block_size: int | None = getattr(self.objective, "block_size", None)
        if self.block_size is not None:
            objective: Any = config.objective
            self.call.require("blocks", f"objective {objective.type} is blockwise")

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cond: Tensor | None = None,
        *,
        response_mask: Tensor | None = None,
        context_ids: Tensor | None = None,
        context_mask: Tensor | None = None,
        documents: Tensor | None = None,
        rows: Tensor | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        loss_weighting: LossWeighting = "bound",
        drawn: DrawnNoise | None = None,
    ) -> DiffusionOutput:
        """Compute the bound of -log p(input_ids), in nats per real token, or of a response given the rest of its row.

        Arguments:
            input_ids: int [B, L] data tokens; attention_mask: bool [B, L], True at real tokens; only these are noised.
            response_mask: bool [B, L], True at the tokens of responses: only they are noised and counted, and the other
                real tokens are given, so that the loss bounds -log p(response | rest) per token of the responses.
            context_ids: int [B, M], the source of each row, which the backbone's encoder reads once; context_mask: bool
                [B, M], True at its real tokens. In training sources are left out of some rows (`source_dropout`).
            cond: condition of each row, [B] or [B, size]; in training it is dropped for some rows.
            documents: int [B, L], the number of each token's document in packed rows; each document is denoised as if it
                were alone, at the row's noise level, so the bound of a row is the sum over its documents.
            rows, batch_size, seed: the rows' indices in the global batch, its size, and the step's seed. They determine
                times and noise, so any split of a batch gives the same loss. By default the batch is the global batch,
                and the seed is drawn from torch's generator.
            loss_weighting: "uniform" divides the terms of `loss` by -alpha' / (1 - alpha), which weights all times
                equally: cross-entropy at masks for mdlm, score entropy times exp(sigma) - 1 for sedd and udlm. With
                `times: count` it weights all numbers of masks k equally, n / (n + 1) at n tokens: the same mean as uniform
                times under the log-linear schedule, where k = 0 has the share 1 / (n + 1). The other fields remain parts of
                the bound.
            drawn: what `drawer.draw` returned for these rows, in training; they are then not checked again.
        In training the loss is the diffusion part alone, without network calls at t = 0 and t = 1; in evaluation it is
        the full bound. Raises DiffusionInputError, InputError and DenoiserCallError.
        """
        check_weighting(loss_weighting)
        source = self.encode(context_ids, context_mask)
        head = self.call.output_head if self.training and self.has_row_form else None
        seen = None if attention_mask is None else attention_mask.bool()
        if drawn is not None and self.inserts:
            return self._loss_of_insertions(drawn, input_ids, seen)
        if drawn is not None and head is not None:
            return self._loss_by_rows(head, drawn, input_ids, seen, documents, source)
        rows_given: dict[str, Any] = {"rows": rows, "batch_size": batch_size, "seed": seed}
        given = self.drawer.check(
            input_ids,
            attention_mask,
            cond,
            response_mask=response_mask,
            documents=documents,
            is_training=self.training,
            **rows_given,
        )
        seen = None if attention_mask is None else given.mask
        if head is not None:
            drawn = self.drawer.draw(given, loss_weighting)
            return self._loss_by_rows(head, drawn, given.input_ids, seen, given.documents, source)
        source = self._drop_sources(source, given.dropped, given.mask & ~given.counted)

        def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
            level = self.process.graph.conditioning_level(sigma, given.given)
            return self._predict(x_t, level, mask=seen, cond=given.cond, documents=given.documents, **source)

        ends = not self.training
        parts = self.objective.parts(denoise, given.input_ids, given.t, given.generators, ~given.counted, ends=ends)
        times = None if loss_weighting == "bound" else given.t
        return reduce_parts(parts, given.counted, self.objective, times, is_training=self.training)

    def _loss_by_rows(
        self,
        head: HeadWeights,
        drawn: DrawnNoise,
        input_ids: Tensor,
        mask: Tensor | None,
        documents: Tensor | None,
        source: Context,
    ) -> DiffusionOutput:
        """Return the training loss without logits of the batch: those of tokens with a loss are made in chunks.

        input_ids int [B, L] are checked rows, mask bool [B, L] is True at real tokens.
        """
        if drawn.get("dropped") is not None:
            source = self._drop_sources(source, drawn["dropped"], drawn.get("prompt"))
        given: dict[str, Any] = {"mask": mask, "cond": drawn.get("cond"), "documents": documents, **source}
        states = partial(self._call, states=True, **given)
        hidden = self.objective.predict(states, drawn["x_t"], drawn["level"], input_ids)
        terms = terms_of(drawn)
        loss, nats = head_loss(hidden, head, terms, terms.even_factor, self.num_tokens)
        diffusion, prior = (nats * terms.factor).sum().float(), drawn["prior"]
        loss = loss.float() + prior if drawn["is_bound"] else loss.float()
        return DiffusionOutput(loss, diffusion, prior, torch.zeros_like(prior))

    def _loss_of_insertions(self, drawn: DrawnNoise, input_ids: Tensor, mask: Tensor | None) -> DiffusionOutput:
        """Return the training loss of rows int [B, L] that were shortened; mask bool [B, L] is True at real tokens."""
        objective: Any = self.objective
        output = self._call(drawn["x_t"], drawn["level"], cond=drawn.get("cond"))
        counted = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask
        times = None if drawn["is_bound"] else drawn["sigma"]  # the weight is that of the parts
        return reduce_parts(objective.parts_of(output, drawn), counted, objective, times, is_training=True)

    def _drop_sources(self, source: Context, dropped: Tensor | None, prompt: Tensor | None) -> Context:
        """Leave the sources of the rows `dropped`, bool [B, 1], out; without an encoder those are the tokens of prompts."""
        if dropped is None:
            return source
        if prompt is not None and self.block_size is not None:
            prompt = prompt.repeat(1, 2)
        return drop_sources(self.network, source, prompt, dropped)

    def encode(self, context_ids: Tensor | None, context_mask: Tensor | None = None) -> Context:
        """Encode sources int [B, M] once, for any number of calls of `denoise`; return its keywords for them.

        context_mask bool [B, M] is True at real tokens. Raises InputError.
        """
        return encode_source(self.network, context_ids, context_mask, has_encoder=self.has_encoder)

    def times(self, t: Tensor, input_ids: Tensor, documents: Tensor | None = None, objective: Any = None) -> Tensor:
        """Return the times at which tokens [B, L] are noised: t [B], or one for each block of each document [B, L].

        `documents` int [B, L] numbers the documents of packed rows; `objective` is the model's by default. Raises TimeError.
        """
        return self.drawer.times(t, input_ids, documents, objective)

    def denoise(
        self,
        x_t: Tensor,
        sigma: Tensor | float | None,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the network's output [B, L, dim] for noisy tokens int [B, L] at sigma, a number, [B] or [B, L].

        A network that inserts tokens returns [B, L + 1, dim + extra], first of the gap before each row, and takes rows
        that end in -1.
        The network takes sigma as float32, or None if the section has `time_conditioning: false`; only then may `sigma`
        be None. mask is bool [B, L], True at real tokens; cond is the condition of each row; documents int [B, L] numbers
        the documents of packed rows; context and context_mask are what `encode` returns. Raises TokenError, SigmaError,
        ShapeError, LengthError, InputError and DenoiserCallError.
        """
        check_noisy(x_t, self.process.graph.dim, ends=self.inserts)
        if self.block_size is not None and x_t.shape[1] % 2:
            raise InputError(f"x_t is {describe(x_t)}; a blockwise model takes [x_t ; x_0], an even number of tokens")
        noisy = x_t if self.block_size is None else x_t[:, : x_t.shape[1] // 2]
        check_mask(mask, noisy, "mask")
        check_condition(self.diffusion_config.condition, cond, x_t.shape[0])
        if sigma is not None or self.diffusion_config.is_time_conditioned:
            sigma = check_level(sigma, x_t)  # type: ignore[arg-type]
        if documents is not None:
            documents = check_documents(documents, noisy)
        source: Context = {"context": context, "context_mask": context_mask}
        return self._predict(x_t.long(), sigma, mask=mask, cond=cond, documents=documents, **source)

    def _predict(
        self,
        x_t: Tensor,
        sigma: Tensor | None,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        blocks: Blocks | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Call the network at noise levels sigma [B] or [B, L] without checks; other arguments are those of `_call`."""
        level = None if sigma is None else self.drawer.level(sigma)
        source: Context = {"context": context, "context_mask": context_mask, "hidden": hidden}
        return self._call(x_t, level, mask, cond, blocks, documents, **source)

    def _call(
        self,
        x_t: Tensor,
        level: Tensor | None,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        blocks: Blocks | None = None,
        documents: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        hidden: Tensor | None = None,
        *,
        states: bool = False,
    ) -> Tensor:
        """Call the network, told `level` of the noise; `blocks` are those of [x_t ; x_0] by default.

        `hidden` tokens are masked. With `states` return the states before the head.
        """
        if hidden is not None:
            mask_token = self.process.graph.mask_token
            assert mask_token is not None  # the section refuses source_dropout without one
            x_t = x_t.masked_fill(hidden, mask_token)
        if not self.is_time_conditioned:
            level = None
        if self.block_size is not None and blocks is None:
            blocks = Blocks.doubled(x_t.shape[1] // 2, self.block_size, x_t.device, documents)
            documents = None
            mask = None if mask is None else torch.cat([mask, mask], 1)
        source = {"context": context, "context_mask": context_mask}
        given = {"mask": mask, "cond": cond, "blocks": blocks, "documents": documents}
        call = self.call.hidden if states else self.call
        return call(x_t, level, **given, **source)

    def sample(
        self,
        num_samples: int = 1,
        length: int | None = None,
        steps: int = 128,
        sampler: SamplerChoice | None = None,
        prompt: Tensor | None = None,
        frozen: Tensor | None = None,
        generator: Randomness = None,
        **options: Any,
    ) -> Tensor:
        """Draw tokens [num_samples, length]; see `draw` for the arguments, which also counts network calls."""
        return self.draw(num_samples, length, steps, sampler, prompt, frozen, generator, **options).tokens

    def draw(
        self,
        num_samples: int = 1,
        length: int | None = None,
        steps: int = 128,
        sampler: SamplerChoice | None = None,
        prompt: Tensor | None = None,
        frozen: Tensor | None = None,
        generator: Randomness = None,
        *,
        cond: Tensor | None = None,
        context_ids: Tensor | None = None,
        context_mask: Tensor | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        mask: Tensor | None = None,
        batch_size: int | None = None,
        watch: Callable[[SamplerState], object] | None = None,
    ) -> SamplerState:
        """Draw samples; return the final state, `tokens` [num_samples, length] and `network_calls` [num_samples].

        Arguments:
            length: of the samples; by default the section's.
            steps: of the time grid; sampler: a name, or a mapping of its `type` and settings, by default the process's
                default.
            prompt, frozen: tokens to keep, and bool of their positions (by default all of the prompt, from position 0).
            generator: seeds each row's stream, so the same seed gives the same samples for any `batch_size`; or the
                streams themselves.
            cond, context_ids: condition and source of each row, as in `forward`; guidance: scale of guidance over the
                condition, or over the source, which is the prompt without an encoder; temperature, top_p: of each token.
            mask: bool, True at real positions, for sequences of different lengths.
            watch: called with the state after each step.
        Raises the errors of `model_factory.diffusion.samplers.sampling.sample`, and InputError without a length.
        """
        length = self.diffusion_config.sequence_length if length is None else length
        if length is None:
            raise InputError("the section has no length: pass length, the number of tokens of a sample")
        with evaluation_mode(self):
            with torch.no_grad():
                source = self.encode(context_ids, context_mask)
            denoiser = self._denoiser(
                cond, num_samples, source, guidance=guidance, temperature=temperature, top_p=top_p
            )
            return sample(
                self.process,
                denoiser,
                num_samples,
                length,
                steps=steps,
                sampler=sampler or self.diffusion_config.samplers[0],
                prompt=prompt,
                frozen=frozen,
                mask=mask,
                generator=generator,
                batch_size=batch_size,
                device=self.device,
                watch=watch,
            )

    def _denoiser(
        self, cond: Tensor | None, rows: int, source: Context | None = None, *, guidance: float, **settings: Any
    ) -> Denoiser:
        """Create the denoiser for samplers, with a condition or a source for each row."""
        drops = self.diffusion_config.source_dropout > 0
        if cond is None and not drops and guidance != 1.0:
            raise InputError(f"guidance is {guidance}, but cond is not given")
        settings |= source or {}
        if drops and source:
            settings["null_context"] = null_source(self.network, len(source["context"]))
        elif drops and guidance != 1.0:
            settings["hides_prompt"] = True
        check_condition(self.diffusion_config.condition, cond, rows)
        null = None if cond is None else self.drawer.null_condition(cond)
        network: Callable[..., Tensor] = self._predict
        if self.block_size is not None:
            is_cached = bool(getattr(self.network, "takes_prefix_cache", True))
            is_masked = self.process.graph.is_masked
            network = BlockReader(self._predict, is_masked, self.block_size, is_cached=is_cached)
        settings |= {"cond": cond, "null_cond": null, "guidance": guidance, "block_size": self.block_size}
        return Denoiser(network, self.objective.parameterisation, **settings)
