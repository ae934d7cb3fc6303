"""ONNX file of a model: from the graph of `torch.export`, checked with onnxruntime."""

import json
import logging
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.transformer.inputs import InputError
from model_factory.interop.export.graph import (
    EXPORT_FILE,
    compare,
    describe_facts,
    describe_graph,
    trace,
)
from model_factory.interop.export.parity import ParityError
from model_factory.interop.export.signature import Signature, find_signature
from model_factory.training.errors import UnfitError
from model_factory.training.run.atomic_io import write_text

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

ONNX_FILE = "model.onnx"
OPSET = 20
_DATA_LIMIT = 1_800_000_000
"""Bytes of weights above which they go to a second file: one protobuf message holds 2 GB."""


def write_onnx(run: "LoadedRun", folder: Path) -> dict[str, str]:
    """Write `model.onnx` and `export.json`; run the file by onnxruntime and compare it; return what was written.

    Raises UnfitError without the extra onnx, InputError for a network without a graph of standard operators, ParityError
    for another output.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UnfitError(
                f"--format onnx needs {package}, which is not installed: pip install 'model-factory[onnx]'"
            )
    signature, file = find_signature(run.model), folder / ONNX_FILE
    _convert(signature, trace(signature), file)
    custom = _find_custom_operators(file)
    if custom:
        raise InputError(f"{ONNX_FILE} needs operators outside of standard ONNX: {', '.join(custom)}")
    parity = _compare(signature, file)
    content = {
        "format": "onnx",
        "opset": OPSET,
        "packages": {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        **describe_graph(run, signature, file, parity),
    }
    write_text(folder / EXPORT_FILE, json.dumps(content, indent=1) + "\n")
    return {"opset": str(OPSET), **describe_facts(signature, parity)}


def _convert(signature: Signature, program: Any, file: Path) -> None:
    """Write the ONNX file of an `ExportedProgram`; raise InputError for an operation that ONNX lacks."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with open(os.devnull, "w", encoding="utf-8") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):  # the exporter prints its progress
                torch.onnx.export(
                    program,
                    (),
                    str(file),
                    input_names=list(signature.axes),
                    output_names=[signature.output],
                    opset_version=OPSET,
                    dynamo=True,
                    external_data=size > _DATA_LIMIT,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            text = " ".join(str(error).split())[:300]
            raise InputError(f"the graph has no form in ONNX: {text}") from error
        finally:
            logging.disable(before)


def _find_custom_operators(file: Path) -> list[str]:
    """Return the operators of a file that are not in the standard set of ONNX, also those inside functions."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    graphs: list[Any] = [model.graph, *model.functions]
    found: set[str] = set()
    own = {(function.domain, function.name) for function in model.functions}
    while graphs:
        for node in graphs.pop().node:
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in own:
                found.add(f"{node.domain}::{node.op_type}")
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return sorted(found)


def _compare(signature: Signature, file: Path) -> dict[str, float]:
    """Return the largest difference at each size; raise ParityError above the bound, and if the file does not run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common type
        raise ParityError(
            f"{ONNX_FILE} cannot be loaded by onnxruntime: {' '.join(str(error).split())[:300]}"
        ) from error

    def call(inputs: dict[str, Tensor]) -> Tensor:
        try:
            found = session.run([signature.output], {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            sizes = list(next(iter(inputs.values())).shape)
            raise ParityError(f"{ONNX_FILE} fails at inputs {sizes}: {text}") from error
        return torch.from_numpy(found)

    return compare(signature, ONNX_FILE, call)
