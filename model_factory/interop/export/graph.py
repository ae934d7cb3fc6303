"""Graphs of a model: torch.export with dynamic batch and length, from plain operations alone."""

import copy
import json
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.transformer.inputs import InputError
from model_factory.interop.export.parity import ParityError, check_equal
from model_factory.interop.export.plain_attention import TABLE
from model_factory.interop.export.signature import Signature, find_signature
from model_factory.training.run.atomic_io import write_text

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

TORCH_FILE, EXPORT_FILE = "model.pt2", "export.json"
PARITY = 5e-6
"""Largest difference of a graph, relative to the largest output or 1."""
ROUNDING = 4.0
"""Largest difference of a graph as a multiple of the rounding error of the run's own network."""
TRACED = (2, 6)
"""Batch and length that a graph is traced at."""


def trace(signature: Signature) -> Any:
    """Return the `ExportedProgram` of plain operations; raise InputError for a network that cannot be traced."""
    batch, length = TRACED
    inputs = signature.examples(batch, min(length, signature.limits.get("length", length)))
    dims = {
        name: torch.export.Dim(name, max=signature.limits.get(name)) for name in ("batch", "length", "source_length")
    }
    shapes = tuple({index: dims[axis] for index, axis in enumerate(axes)} for axes in signature.axes.values())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(signature.module, tuple(inputs.values()), dynamic_shapes=(shapes,))
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


def describe_graph(run: "LoadedRun", signature: Signature, file: Path, parity: dict[str, float]) -> dict[str, Any]:
    """Return the content of export.json about a graph: inputs, dynamic axes, the longest length, sha256 and parity.

    Of a classifier also the names of its classes, in the order of the logits, if the data set has them.
    """
    classes = getattr(run.dataset_config, "classes", None) if run.task_name == "sequence_classification" else None
    is_of_sources = any("source_length" in axes for axes in signature.axes.values())
    return {
        "file": file.name,
        "sha256": sha256(file.read_bytes()).hexdigest(),
        "inputs": {name: list(axes) for name, axes in signature.axes.items()},
        "output": signature.output,
        "output_axes": list(signature.output_axes),
        **({} if classes is None else {"classes": list(classes)}),
        "longest": signature.limits.get("length"),
        **({"longest_source": signature.limits.get("source_length")} if is_of_sources else {}),
        "padding": "right",
        "notes": list(signature.notes),
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
    facts = describe_graph(run, signature, file, parity)
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
