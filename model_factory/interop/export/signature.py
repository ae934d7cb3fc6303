"""Signatures of graphs: the inputs of a model by name with their dynamic axes, and examples of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model.discrete.model import DiffusionModel
from model.latent.checks import max_positions_of
from model.transformer.inputs import InputError
from model.transformer.performer import EncoderDecoderTransformer, PerformerDecoder, PerformerEncoder
from model_factory.diffusion.objectives.alignment import ABSENT
from model_factory.interop.export.parity import example_ids, what_to_use
from model_factory.training.tasks.sequence_classification import SequenceClassifier

SHAPES = ((1, 1), (3, 17), (2, 64))
"""Batch and length of the inputs that a graph is compared with the run at; a shorter model's longest replaces 64."""

Axes = tuple[str, ...]
Inputs = Mapping[str, Tensor]
Call = Callable[[Any, Inputs], Tensor]
_TOKENS, _SOURCE = ("batch", "length"), ("batch", "source_length")


class GraphModule(nn.Module):
    """Module to trace: `forward` takes the inputs of a signature in their order, and calls the network with them."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], call: Call) -> None:
        super().__init__()
        self.network, self._names, self._call = network, names, call

    def forward(self, *given: Tensor) -> Tensor:
        """Return the output [batch, ...]."""
        return self._call(self.network, dict(zip(self._names, given, strict=True)))


@dataclass(frozen=True)
class Signature:
    """Inputs and output of a graph.

    Fields:
        module: to trace.
        axes: the names of the inputs in their order, with those of their dynamic axes.
        limits: the largest length of an axis that has one.
        output, output_axes: name of the output, and its dynamic axes, before those of fixed size.
        notes: sentences on inputs or output that differ from those of a plain model.
    """

    module: GraphModule
    axes: Mapping[str, Axes]
    limits: Mapping[str, int] = field(default_factory=dict)
    output: str = "logits"
    output_axes: Axes = _TOKENS
    notes: tuple[str, ...] = ()

    def examples(self, batch: int, length: int) -> dict[str, Tensor]:
        """Return inputs [batch, length] by name; with two rows or more the last one is padded on the right.

        Sources are longer by one token where they may be.
        """
        source = min(length + 1, self.limits.get("source_length", length + 1))
        sizes = {"batch": batch, "length": length, "source_length": source}
        network: Any = self.module.network
        return {name: _example(network, name, *(sizes[axis] for axis in axes)) for name, axes in self.axes.items()}

    def shapes(self) -> list[tuple[int, int]]:
        """Return the batch sizes and lengths to compare at."""
        longest = self.limits.get("length", SHAPES[-1][1])
        return list(dict.fromkeys((batch, min(length, longest)) for batch, length in SHAPES))


def find_signature(network: nn.Module) -> Signature:
    """Return what is traced of a network; raise InputError for one that no graph is made of."""
    if isinstance(network, PerformerDecoder | PerformerEncoder):
        output = "logits" if network.has_head else "last_hidden_state"
        return _stack_signature(network, network, output=output)
    if isinstance(network, SequenceClassifier) and isinstance(network.encoder, PerformerEncoder):
        return _stack_signature(network, network.encoder, output_axes=("batch",))
    if isinstance(network, EncoderDecoderTransformer):
        axes = {"input_ids": _SOURCE, "attention_mask": _SOURCE}
        axes |= {"decoder_input_ids": _TOKENS, "decoder_attention_mask": _TOKENS}
        lengths = {"source_length": network.encoder.params.max_length, "length": network.decoder.params.max_length}
        return _signature(network, _call_pair, axes, lengths)
    if isinstance(network, DiffusionModel):
        return _denoiser_signature(network)
    raise InputError(
        f"a {type(network).__name__} has no graph ({what_to_use(network)}); decoders, encoders, classifiers of texts, "
        "encoder-decoders and discrete diffusion models can be exported as torch and onnx"
    )


def _signature(
    network: nn.Module, call: Call, axes: Mapping[str, Axes], lengths: Mapping[str, int | None], **more: Any
) -> Signature:
    limits = {axis: length for axis, length in lengths.items() if length is not None}
    return Signature(GraphModule(network, tuple(axes), call), axes, limits, **more)


def _stack_signature(network: nn.Module, stack: PerformerDecoder | PerformerEncoder, **more: Any) -> Signature:
    first = "input_ids" if stack.input.embedding is not None else "inputs_embeds"
    axes = {first: _TOKENS, "attention_mask": _TOKENS}
    return _signature(network, _call_stack, axes, {"length": stack.params.max_length}, **more)


def _denoiser_signature(network: DiffusionModel) -> Signature:
    config, notes = network.diffusion_config, []
    axes: dict[str, Axes] = {"input_ids": _TOKENS}
    longest = getattr(network.network, "max_length", getattr(config.backbone, "max_length", None))
    lengths: dict[str, int | None] = {"length": longest}
    more: dict[str, Any] = {}
    if network.block_size is not None:
        axes["clean_ids"] = _TOKENS
        notes.append(
            f"blocks of {network.block_size} tokens are noisy in input_ids, each given the blocks before it in clean_ids; "
            "the logits are those of input_ids"
        )
    axes["attention_mask"] = _TOKENS
    if network.has_encoder:
        axes |= {"context_ids": _SOURCE, "context_mask": _SOURCE}
        lengths["source_length"] = _longest_source(network)
        notes.append("context_ids are the source, which every call encodes")
    if config.is_time_conditioned:
        axes["sigma"] = ("batch",) if network.block_size is None else _TOKENS
    if config.condition is not None:
        axes["cond"] = ("batch",)
    if network.inserts:
        dim, extra = network.process.graph.dim, network.width - network.process.graph.dim
        lengths["length"] = None if longest is None else longest - 1
        more["output_axes"] = ("batch", "length + 1")
        notes.append(
            f"the first position of the output is before the row; of {network.width} outputs {dim} are logits of tokens "
            f"and {extra} are of the gap after the position"
        )
    return _signature(network, _call_denoiser, axes, lengths, notes=tuple(notes), **more)


def _longest_source(network: DiffusionModel) -> int | None:
    """Return the most tokens of a source; None without a limit."""
    source: Any = network.network.source
    stack, model = getattr(source.encoder, "stack", None), getattr(source.encoder, "model", None)
    if stack is not None:
        return stack.params.max_length  # type: ignore[no-any-return]
    return None if model is None else max_positions_of(model.config)


def _call_stack(network: Any, given: Inputs) -> Tensor:
    """Return logits or hidden states [B, N, ...], of a classifier logits [B, C]; padding follows the real tokens of a row."""
    x = given["input_ids"] if "input_ids" in given else given["inputs_embeds"]
    output: Tensor = network(x, mask=given["attention_mask"].bool())
    return output


def _call_pair(network: EncoderDecoderTransformer, given: Inputs) -> Tensor:
    """Return the logits [B, N, V] of the decoder."""
    masks = given["attention_mask"].bool(), given["decoder_attention_mask"].bool()
    output: Tensor = network(given["input_ids"], given["decoder_input_ids"], *masks)
    return output


def _call_denoiser(network: DiffusionModel, given: Inputs) -> Tensor:
    """Return the network's raw output [B, L, dim]; of one that inserts tokens, [B, L + 1, dim + extra]."""
    ids, sigma = given["input_ids"], given.get("sigma")
    mask: Tensor | None = given["attention_mask"].bool()
    source = {}
    if network.has_encoder:
        source = network.encode(given["context_ids"], given["context_mask"].bool())
    if network.inserts:
        assert mask is not None
        ids, mask = ids.masked_fill(~mask, ABSENT), None
    length = ids.shape[1]
    if network.block_size is not None:
        ids = torch.cat([ids, given["clean_ids"]], 1)
        sigma = None if sigma is None else torch.cat([sigma, torch.zeros_like(sigma)], 1)
    output = network.denoise(ids, sigma, mask, given.get("cond"), **source)
    return output if network.block_size is None else output[:, :length]


def _example(network: Any, name: str, batch: int, length: int = 1) -> Tensor:
    """Return an input [batch] or [batch, length, ...]."""
    if name.endswith("_mask"):
        mask = torch.ones(batch, length, dtype=torch.int64)
        if batch > 1 and length > 2:
            mask[-1, length // 2 :] = 0
        return mask
    if name == "sigma":
        levels = torch.linspace(0.1, 1.5, batch)
        is_of_tokens = network.block_size is not None
        return levels[:, None] * torch.linspace(1.0, 0.5, length) if is_of_tokens else levels
    if name == "cond":
        return _example_condition(network, batch)
    ids = example_ids(network, batch, length)
    return ids % network.num_tokens if name in ("clean_ids", "context_ids") else ids  # no mask among them


def _example_condition(network: DiffusionModel, batch: int) -> Tensor:
    condition = network.diffusion_config.condition
    assert condition is not None
    if condition.num_classes is not None:
        return torch.arange(batch) % condition.num_classes
    size = condition.size or 1
    return torch.linspace(-1.0, 1.0, batch * size).reshape(batch, size)
