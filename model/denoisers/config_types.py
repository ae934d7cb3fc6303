"""Types of the `backbone` section of a diffusion model; no torch is imported."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from model.checkpoints.families import is_published
from model.core_registry import first_of_direction
from model.denoisers.encoder_types import EncoderChoice
from model.hub import find_folder_problem
from model.types import Device, PerformerParams
from model_factory.yaml_config.paths import PathText, expand_home
from model_factory.yaml_config.strict_model import StrictModel, Violation


class BackboneConfig(StrictModel):
    """Keys of every backbone; custom types inherit from it, or are mixed with it when they are registered."""

    type: str
    """Name of a registered backbone."""
    device: Device = "auto"
    """auto (the accelerator if there is one, else cpu), cpu, cuda, cuda:N, mps or xpu."""

    @property
    def takes_time(self) -> bool:
        """True if the network is passed the time t in [0, 1] instead of the noise level sigma."""
        return False

    def level_problem(self) -> Violation | None:
        """Return the setting with which the network cannot use a noise level for each token; None: no setting."""
        return None


class LocalConfig(StrictModel):
    """Keys of backbones with an optional convolution over the token embeddings."""

    local_width: Annotated[int, Field(ge=3, le=63)] | None = None
    """Tokens that a convolution over the token embeddings spans, odd: 5 is two to either side. It adds to them, is zero
    at first, and shortens the start of training, in which a network predicts only frequencies; loss and bound stay the
    same, and weights of a model without it can be loaded. None: no convolution. [tokens]"""
    local_groups: Annotated[int, Field(gt=0, le=1_048_576)] | None = None
    """Groups of channels that are convolved separately, with as many times fewer weights; None: one, the dense
    convolution. [groups]"""

    def local_violations(self, width_key: str) -> Iterator[Violation]:
        """Yield an even width, and groups that are given alone or do not divide the channels, `width_key`."""
        kernel, groups, channels = self.local_width, self.local_groups, getattr(self, width_key)
        if kernel is not None and kernel % 2 == 0:
            message = f"local_width {kernel} is even: the convolution spans as many tokens before a token as after it"
            yield Violation(message, ("local_width",), suggestion=f"local_width: {kernel - 1} or {kernel + 1}")
        if groups is None:
            return
        if kernel is None:
            yield Violation(
                "local_groups is given without local_width, and there is no convolution",
                ("local_groups",),
                suggestion="local_width: 5 beside it",
            )
        elif channels % groups:
            fitting = [number for number in range(1, channels + 1) if channels % number == 0]
            near = min(fitting, key=lambda number: abs(number - groups))
            yield Violation(
                f"local_groups {groups} does not divide {width_key} {channels}",
                ("local_groups",),
                ((width_key,),),
                f"local_groups: {near}",
            )


class PerformerBackboneConfig(LocalConfig, PerformerParams, BackboneConfig):
    """A Performer encoder, softmax or linear, whose input is token embeddings plus an embedding of the noise level."""

    type: Literal["performer"] = "performer"
    encoder: EncoderChoice = None
    """Encoder of a source, read once a sample, to which every layer attends: performer (with separate sizes) or hugging_face
    (pretrained); None: a source is read in front of the target."""

    def violations(self) -> Iterator[Violation]:
        """Yield causal attention, and keys that belong to the model's section or to other roles."""
        yield from super().violations()
        yield from self.local_violations("d_model")
        causal = first_of_direction(self, "causal")
        if causal is not None:
            yield Violation(
                f"a causal backbone cannot denoise: a token must attend to later ones, and {causal} hides them",
                ("attention_type",),
                suggestion="attention_type: linear",
            )
        for key in ("vocab_size", "input_dim", "use_cross_attention"):
            if getattr(self, key):
                hint = "leave it out" + ("; set model.vocab_size" if key == "vocab_size" else "")
                yield Violation(
                    f"{key} is not a key of a backbone, whose input is the process's tokens", (key,), suggestion=hint
                )


class BertBackboneConfig(LocalConfig, BackboneConfig):
    """BERT (Devlin et al. 2019) from scratch: bidirectional softmax attention, conditioned by `time_injection`."""

    type: Literal["bert"] = "bert"
    hidden_size: Annotated[int, Field(gt=0, le=1_048_576)]
    """Width of the residual stream. [channels]"""
    num_layers: Annotated[int, Field(gt=0, le=10_000)]
    """Number of layers. [layers]"""
    num_heads: Annotated[int, Field(gt=0, le=65_536)]
    """Number of heads; divides hidden_size, into even widths where positions are rotary. [heads]"""
    intermediate_size: Annotated[int, Field(gt=0, le=16_777_216)] | None = None
    """Width of the feed-forward layer; None: 4 * hidden_size. [channels]"""
    max_length: Annotated[int, Field(gt=0, le=16_777_216)] = 512
    """Number of positions: the longest sequence. [tokens]"""
    position: Literal["rotary", "absolute"] = "rotary"
    """rotary (arXiv 2104.09864; learns sooner) or absolute (learned, BERT's own)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping an attention weight, and a value before each residual sum. [probability]"""
    time_injection: Literal["adaln", "input", "output"] = "adaln"
    """Input of noise level and condition: adaln (shift, scale and gate of every layer), input (added to the token
    embeddings) or output (added to the last hidden states, after all attention)."""
    tie_embeddings: bool = False
    """Use the token embedding as the output head too."""

    def level_problem(self) -> Violation | None:
        """Return `time_injection: output`, with which no token sees the level of another."""
        if self.time_injection != "output":
            return None
        message = "time_injection output adds the level after all attention, so no token sees that of another"
        return Violation(message, ("time_injection",), (), "time_injection: adaln")

    def violations(self) -> Iterator[Violation]:
        """Yield a number of heads that does not divide the width, into even parts if positions are rotary."""
        yield from self.local_violations("hidden_size")
        part = 2 if self.position == "rotary" else 1
        if self.hidden_size % (part * self.num_heads):
            fitting = [heads for heads in range(1, self.hidden_size + 1) if self.hidden_size % (part * heads) == 0]
            near = min(fitting, key=lambda heads: abs(heads - self.num_heads), default=None)
            whole = self.hidden_size % self.num_heads
            yield Violation(
                f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}"
                + ("" if whole else " into the even widths that rotary positions need"),
                ("num_heads",),
                (("hidden_size",),),
                f"num_heads: {near}" if near else f"hidden_size: {self.hidden_size + 1}",
            )


class DDiTBackboneConfig(LocalConfig, BackboneConfig):
    """SEDD's diffusion transformer (Lou et al. 2024, after Peebles and Xie 2022): adaLN, rotary positions, softmax."""

    type: Literal["ddit"] = "ddit"
    d_model: Annotated[int, Field(gt=0, le=1_048_576)]
    """Width of the residual stream. [channels]"""
    num_layers: Annotated[int, Field(gt=0, le=10_000)]
    """Number of layers. [layers]"""
    num_heads: Annotated[int, Field(gt=0, le=65_536)]
    """Number of heads; divides d_model into even widths. [heads]"""
    d_ff: Annotated[int, Field(gt=0, le=1_048_576)] = 4
    """Expansion factor of the feed-forward layer. [1]"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping a value before each residual sum. [probability]"""
    cond_dim: Annotated[int, Field(gt=0, le=1_048_576)] = 128
    """Width of the embedding of the noise level and of the condition. [channels]"""
    encoder: EncoderChoice = None
    """Encoder of a source, read once a sample, to which every layer attends: performer (with separate sizes) or hugging_face
    (pretrained); None: a source is read in front of the target."""
    init: Literal["neighbours"] | None = None
    """neighbours: heads look one token to the right and to the left at first, by turns, which shortens the start of
    training without new weights (`local_width` shortens it more); None: as published."""
    time_embedding: Literal["lost", "sigma", "time"] = "lost"
    """Number whose sinusoids embed the noise level: lost (1000 (1 - exp(-sigma)), the expected share of corrupted tokens in
    thousandths), sigma (as in SEDD, MDLM, UDLM and Duo) or time (t from 0 to 1, as in GIDD)."""
    condition_silu: Literal["sum", "each"] = "sum"
    """SiLU of the sum of the embeddings of noise level and condition, or of each of them before the sum, as in UDLM."""

    @property
    def takes_time(self) -> bool:
        """True if the network is passed the time t in [0, 1] instead of the noise level sigma."""
        return self.time_embedding == "time"

    def violations(self) -> Iterator[Violation]:
        """Yield a number of heads that does not divide the width into even parts, which rotary positions need."""
        yield from self.local_violations("d_model")
        if self.d_model % (2 * self.num_heads):
            fitting = [heads for heads in range(1, self.d_model // 2 + 1) if self.d_model % (2 * heads) == 0]
            near = min(fitting, key=lambda heads: abs(heads - self.num_heads), default=None)
            yield Violation(
                f"d_model {self.d_model} is not a multiple of 2 * num_heads = {2 * self.num_heads}",
                ("num_heads",),
                (("d_model",),),
                f"num_heads: {near}" if near else f"d_model: {self.d_model + 1}",
            )


class HuggingFaceBackboneConfig(BackboneConfig):
    """A pretrained masked or causal language model of Hugging Face, trained further as a denoiser."""

    type: Literal["hugging_face"] = "hugging_face"
    path: PathText | None = None
    """A folder with config.json and weights in safetensors, or a name on the hub, `owner/name`."""
    architecture: dict[str, Any] | None = None
    """Config of a transformers model in place of `path`: the keys of its config.json, `model_type` among them. Weights are
    random until those of a run replace them, so imported models have it."""
    adapt: Literal["masked", "causal"] | None = None
    """masked (BERT, RoBERTa, ModernBERT, ...: unchanged) or causal (GPT-2, Llama, Qwen, ...: attention becomes
    bidirectional, and logits are shifted by one, as in DiffuLLaMA, arXiv 2410.17891); None: from its config.json."""
    shift: bool | None = None
    """Read the logits of a token from the position before it: Dream and DiffuLLaMA do, LLaDA and SDAR do not; None: for
    causal models."""
    mask_token_id: Annotated[int, Field(ge=0)] | None = None
    """Token of the model's own vocabulary that is the mask; None: a new embedding is learned. [token id]"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights when they are loaded from `path` or made; those of a run keep theirs."""
    encoder: EncoderChoice = None
    """Encoder of a source, read once a sample, to which a new cross-attention after every layer attends: performer (from
    scratch) or hugging_face (pretrained); None: a source is read in front of the target."""

    def violations(self) -> Iterator[Violation]:
        """Yield a path that is no folder with a model, or one of a published diffusion model."""
        if (self.path is None) == (self.architecture is None):
            given = "both path and architecture" if self.path else "neither path nor architecture"
            yield Violation(
                f"{given} are given", ("path",), suggestion="path: a folder with config.json, or owner/name"
            )
        if self.architecture is not None and not isinstance(self.architecture.get("model_type"), str):
            yield Violation("architecture has no model_type", ("architecture",), suggestion="model_type: llama")
        if self.path is None:
            return
        problem = find_folder_problem(self.path)
        if problem is not None:
            yield Violation(f"{self.path}: {problem}", ("path",), suggestion="a folder with config.json, or owner/name")
        elif _is_published(self.path):
            yield Violation(
                f"{self.path} is a published diffusion model, which transformers has no architecture for; make a run of it",
                ("path",),
                suggestion=f"model-factory import --from {self.path} --output runs/imported",
            )


_LARGEST_CONFIG = 1 << 20


def _is_published(path: str) -> bool:
    """Return True for a folder whose config.json is of a published diffusion model; a larger file than any is not read."""
    file = expand_home(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size < _LARGEST_CONFIG else None
    except (OSError, ValueError, RecursionError):
        return False  # a name on the hub, or a damaged file, which is reported when it is loaded
    return isinstance(config, dict) and is_published(config)
