"""Graphs of a model: torch.export with dynamic batch and length, from plain operations alone."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.discrete.model import DiffusionModel
from model.transformer.inputs import InputError
from model.transformer.performer import EncoderDecoderTransformer, PerformerDecoder, PerformerEncoder
from model_factory.interop.export.parity import ParityError, check_equal, example_ids
from model_factory.interop.export.plain_attention import TABLE
from model_factory.training.run.atomic_io import write_text

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

TORCH_FILE, EXPORT_FILE = "model.pt2", "export.json"
SHAPES = ((1, 1), (3, 17), (2, 64))
"""Batch and length of the inputs that a graph is compared with the run at; a shorter model's longest replaces 64."""
PARITY = 5e-6
"""Largest difference of a graph, relative to the largest output or 1."""
ROUNDING = 4.0
"""Largest difference of a graph as a multiple of the rounding error of the run's own network."""
TRACED = (2, 6)
"""Batch and length that a graph is traced at."""


class _Stack(nn.Module):
    """`forward(input_ids, attention_mask)` of an encoder or a decoder, or of features `inputs_embeds`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, given: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits or hidden states [B, N, ...]; padding follows the real tokens of a row."""
        output: Tensor = self.network(given, mask=attention_mask.bool())
        return output


class _Pair(nn.Module):
    """`forward(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask)` of an encoder-decoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor, decoder_attention_mask: Tensor
    ) -> Tensor:
        """Return the logits [B, N, V] of the decoder."""
        masks = attention_mask.bool(), decoder_attention_mask.bool()
        output: Tensor = self.network(input_ids, decoder_input_ids, *masks)
        return output


class _Denoiser(nn.Module):
    """`forward(input_ids, attention_mask, sigma, cond)` of a diffusion model; those that it does not take are None."""

    def __init__(self, network: DiffusionModel) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, sigma: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """Return the network's raw output [B, L, dim]."""
        return self.network.denoise(input_ids, sigma, attention_mask.bool(), cond)


@dataclass(frozen=True)
class Signature:
    """Module to trace, the names of its inputs with those of their dynamic axes, and the longest length."""

    module: nn.Module
    axes: Mapping[str, tuple[str, ...]]
    longest: int | None

    def examples(self, batch: int, length: int) -> dict[str, Tensor]:
        """Return inputs [batch, length] by name; with two rows or more the last is padded on the right."""
        network: Any = self.module.network
        ids = example_ids(network, batch, length)
        mask = torch.ones(batch, length, dtype=torch.int64)
        if batch > 1 and length > 2:
            mask[-1, length // 2 :] = 0
        found = {}
        for name in self.axes:
            if name.endswith("attention_mask"):
                found[name] = mask
            elif name == "sigma":
                found[name] = torch.linspace(0.1, 1.5, batch)
            elif name == "cond":
                found[name] = _example_condition(network, batch)
            else:
                found[name] = ids
        return found

    def shapes(self) -> list[tuple[int, int]]:
        """Return the batch sizes and lengths to compare at."""
        longest = self.longest or SHAPES[-1][1]
        return list(dict.fromkeys((batch, min(length, longest)) for batch, length in SHAPES))


def find_signature(network: nn.Module) -> Signature:
    """Return what is traced of a network; raise InputError for one that no graph is made of."""
    if isinstance(network, PerformerDecoder | PerformerEncoder):
        first = "input_ids" if network.input.embedding is not None else "inputs_embeds"
        axes = {first: ("batch", "length"), "attention_mask": ("batch", "length")}
        return Signature(_Stack(network), axes, network.params.max_length)
    if isinstance(network, EncoderDecoderTransformer):
        source, target = ("batch", "source_length"), ("batch", "length")
        axes = {"input_ids": source, "attention_mask": source}
        axes |= {"decoder_input_ids": target, "decoder_attention_mask": target}
        limits = [part.params.max_length for part in (network.encoder, network.decoder)]
        return Signature(_Pair(network), axes, min((limit for limit in limits if limit is not None), default=None))
    if isinstance(network, DiffusionModel):
        return _denoiser_signature(network)
    raise InputError(
        f"a {type(network).__name__} has no graph; decoders, encoders without a task's head, encoder-decoders and "
        "discrete diffusion models can be exported as torch and onnx"
    )


def _denoiser_signature(network: DiffusionModel) -> Signature:
    for reason, is_true in (
        ("a model that inserts tokens", network.inserts),
        ("a blockwise model, whose rows are the noisy and the clean text", network.block_size is not None),
        ("a backbone with an encoder of a source", network.has_encoder),
    ):
        if is_true:
            raise InputError(f"{reason}, has no graph; export it with --format hf")
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(("input_ids", "attention_mask"), ("batch", "length"))
    if network.diffusion_config.is_time_conditioned:
        axes["sigma"] = ("batch",)
    if network.diffusion_config.condition is not None:
        axes["cond"] = ("batch",)
    backbone = network.diffusion_config.backbone
    return Signature(_Denoiser(network), axes, getattr(backbone, "max_length", None))


def _example_condition(network: DiffusionModel, batch: int) -> Tensor:
    condition = network.diffusion_config.condition
    assert condition is not None
    if condition.num_classes is not None:
        return torch.arange(batch) % condition.num_classes
    size = condition.size or 1
    return torch.linspace(-1.0, 1.0, batch * size).reshape(batch, size)


def trace(signature: Signature) -> Any:
    """Return the `ExportedProgram` of plain operations; raise InputError for a network that cannot be traced."""
    batch, length = TRACED
    inputs = signature.examples(batch, min(length, signature.longest or length))
    dims = {
        name: torch.export.Dim(name, max=None if name == "batch" else signature.longest)
        for name in ("batch", "length", "source_length")
    }
    shapes = tuple({index: dims[axis] for index, axis in enumerate(axes)} for axes in signature.axes.values())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(signature.module, tuple(inputs.values()), dynamic_shapes=shapes)
            return program.run_decompositions(TABLE)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"the network cannot be traced as a graph: {type(error).__name__}: {text}") from error


@torch.no_grad()
def reference(signature: Signature, batch: int, length: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs [batch, length] by name, and the output [batch, length, ...] of the run's own model for them."""
    inputs = signature.examples(batch, length)
    output: Tensor = signature.module(*inputs.values())
    return inputs, output


@torch.no_grad()
def compare(signature: Signature, name: str, call: Callable[[dict[str, Tensor]], Tensor]) -> dict[str, float]:
    """Return the largest difference of `call`, which takes inputs [batch, length], from the run's model at each size.

    It may be `PARITY`, relative to the largest output or 1. A network that amplifies the rounding of float32 differs by more
    from itself in float64; then it may be `ROUNDING` times that. Raises ParityError for `name` beyond both.
    """
    parity = {}
    for batch, length in signature.shapes():
        inputs, wanted = reference(signature, batch, length)
        found = call(inputs)
        try:
            gap = check_equal(name, found, wanted, tolerance=PARITY)
        except ParityError:
            scale = max(1.0, float(wanted.abs().max()))
            rounding = _rounding_error(signature, inputs, wanted)
            gap = check_equal(name, found, wanted, tolerance=max(PARITY, ROUNDING * rounding / scale))
        parity[f"{batch}x{length}"] = gap
    return parity


def _rounding_error(signature: Signature, inputs: dict[str, Tensor], wanted: Tensor) -> float:
    """Return the largest difference of the run's outputs [batch, length, ...] from those of its network in float64."""
    precise = copy.deepcopy(signature.module).double()
    given = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs.values()]
    return float((precise(*given) - wanted).abs().max())


def describe_graph(signature: Signature, file: Path, parity: dict[str, float], output: str) -> dict[str, Any]:
    """Return the content of export.json about a graph: inputs, dynamic axes, the longest length, sha256 and parity."""
    return {
        "file": file.name,
        "sha256": sha256(file.read_bytes()).hexdigest(),
        "inputs": {name: list(axes) for name, axes in signature.axes.items()},
        "output": output,
        "longest": signature.longest,
        "padding": "right",
        "parity": parity,
    }


def write_torch(run: "LoadedRun", folder: Path) -> dict[str, str]:
    """Write `model.pt2` and `export.json`; load the graph again and compare it; return what was written.

    Raises InputError for a network without a graph, ParityError for another output.
    """
    signature = find_signature(run.model)
    program = trace(signature)
    custom = sorted({str(node.target) for node in program.graph.nodes if "model_factory" in str(node.target)})
    if custom:
        raise InputError(f"the graph holds operators of our package: {', '.join(custom)}")
    file = folder / TORCH_FILE
    torch.export.save(program, file)
    again = torch.export.load(file).module()
    parity = compare(signature, TORCH_FILE, lambda inputs: again(*inputs.values()))
    facts = describe_graph(signature, file, parity, "logits")
    content = {"format": "torch", "torch": torch.__version__, **facts}
    write_text(folder / EXPORT_FILE, json.dumps(content, indent=1) + "\n")
    return describe_facts(signature, parity)


def describe_facts(signature: Signature, parity: dict[str, float]) -> dict[str, str]:
    """Return what is printed of a graph."""
    inputs = ", ".join(f"{name} [{', '.join(axes)}]" for name, axes in signature.axes.items())
    return {
        "inputs": inputs,
        "parity": ", ".join(f"{gap:.1e} at {shape}" for shape, gap in parity.items()),
    }
