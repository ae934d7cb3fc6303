"""Graphs: plain operations, dynamic shapes, and files that run without our package."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import model.attention.chunked.op  # noqa: F401
from model.transformer.inputs import InputError
from model_factory.interop.export.graph import reference
from model_factory.interop.export.onnx_file import _compare
from model_factory.interop.export.parity import ParityError, check_equal
from model_factory.interop.export.plain_attention import plain_attention
from model_factory.interop.export.signature import find_signature
from tests.evaluation.untrained_runs import LATENT, make_run, text_data
from tests.interop.exports import DDIT, decoder, denoiser, encoder, export, model_of, sharpen, write_run

LOAD = """
import importlib.util, sys, torch
assert importlib.util.find_spec("model_factory") is None
assert importlib.util.find_spec("model") is None
inputs, wanted = torch.load(sys.argv[2])
found = torch.export.load(sys.argv[1]).module()(*inputs)
print(float((found - wanted).abs().max()))
"""


@pytest.mark.parametrize("is_causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("kind", ["exp", "by-head", "relu", "identity"])
def test_plain_attention_equals_the_operator(kind: str, is_causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = 4 * draw(2, 4, 19, 8), 4 * draw(2, 4, 19, 8), draw(2, 4, 19, 8)
    weight, bias, square = draw(2, 13, 8), draw(2, 13), draw(2, 8).abs()
    one = weight[:1]
    kernel = {
        "exp": (one, one, None, square[:1], "exp"),
        "by-head": (weight, weight, bias, square, "exp"),
        "relu": (one, one, None, None, "relu"),
        "identity": (None, None, None, None, "identity"),
    }[kind]
    if kind == "identity":
        q, k = q.abs(), k.abs()
    mask = draw(2, 19) > -0.5
    mask[1] = torch.arange(19) > 3  # rows without a key
    for key_mask, scale in ((None, None), (mask, None), (mask, 3 * draw(2, 4, 19))):
        arguments = (q, k, v, key_mask, scale, *kernel, is_causal, False)
        wanted = torch.ops.model_factory.linear_attention(*arguments)
        found = plain_attention(*arguments)
        assert torch.allclose(found[0], wanted[0], atol=1e-5)
        assert [x.shape for x in found] == [x.shape for x in wanted]
        assert found[0].stride() == wanted[0].stride()


@pytest.mark.parametrize(
    "model",
    [decoder(attention_type="causal_linear"), denoiser(DDIT, "sedd"), denoiser(DDIT, "bd3lm")],
    ids=["linear", "sedd", "blocks"],
)
def test_torch_graph_loads_without_our_package(model: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", model)
    sharpen(run)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "torch")
    assert code == 0, printed
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["sha256"] == sha256((tmp_path / "out" / "model.pt2").read_bytes()).hexdigest()
    assert told["inputs"]["input_ids"] == ["batch", "length"]
    assert len(told["parity"]) == 3
    inputs, wanted = reference(find_signature(model_of(run)), 5, 11)
    assert float(wanted.std()) > 0.1
    torch.save((list(inputs.values()), wanted), tmp_path / "io.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", LOAD, str(tmp_path / "out" / "model.pt2"), str(tmp_path / "io.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4e-4  # the sharpened network amplifies rounding


@pytest.mark.parametrize(
    "model", [decoder(attention_type="causal_linear"), denoiser(DDIT, "sedd")], ids=["linear", "sedd"]
)
def test_onnx_file_gives_the_outputs_of_the_run(model: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    run = write_run(tmp_path / "r", model)
    sharpen(run)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "onnx")
    assert code == 0, printed
    file = tmp_path / "out" / "model.onnx"
    assert {node.domain for node in onnx.load(str(file)).graph.node} <= {"", "ai.onnx"}
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["opset"] == 20
    assert max(told["parity"].values()) < 4e-4
    signature = find_signature(model_of(run))
    session = runtime.InferenceSession(str(file))
    inputs, wanted = reference(signature, 4, 9)
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    assert torch.allclose(torch.from_numpy(found), wanted, atol=4e-4)
    other = model_of(run)
    with torch.no_grad():
        next(other.parameters()).mul_(1.05)
    with pytest.raises(ParityError, match="differ from the run's"):
        _compare(find_signature(other), file)


def test_classifier_is_exported_with_its_classes(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the fox", "kind": "a"}\n{"text": "a dog", "kind": "b"}\n{"text": "ox", "kind": "a"}\n')
    files = {"train": str(rows), "test": str(rows)}
    data = {"name": "rows", "source": "json", "data_files": files, "label": "kind", "classes": ["a", "b"]}
    model = encoder(attention_type="linear")
    run = make_run(tmp_path / "r", model, [data], "sequence_classification", num_labels=2)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "onnx")
    assert code == 0, printed
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (told["output_axes"], told["classes"]) == (["batch"], ["a", "b"])
    assert max(told["parity"].values()) <= 5e-6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", padding_side="right")
    given = dict(tokenizer(["the fox", "ox"], return_tensors="pt", padding=True))
    names = ("input_ids", "attention_mask")
    session = runtime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (found,) = session.run(None, {name: given[name].numpy() for name in names})
    with torch.no_grad():
        wanted = model_of(run)(given["input_ids"], given["attention_mask"].bool())
    assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-5)


def test_network_without_a_graph_is_refused() -> None:
    with pytest.raises(InputError, match="a Linear has no graph"):
        find_signature(torch.nn.Linear(2, 2))


def test_latent_run_is_refused_with_what_to_use(tmp_path: Path, capsys: Any) -> None:
    data = text_data(tmp_path / "texts", documents="line", rows="whole", sequence_length=90)
    run = make_run(tmp_path / "r", LATENT, data, "latent_diffusion")
    for form in ("torch", "onnx", "hf"):
        code, printed = export(run, tmp_path / "out", capsys, "--format", form)
        assert code == 1
        assert "model-factory serve" in printed["errors"][0]["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.tensor([1.0, 2.0, 3.0]), r"\[3\] instead of \[2\]"),
        (torch.tensor([1.0, torch.nan]), "NaN"),
        (torch.tensor([1.0, 2.1]), "differ"),
    ],
    ids=["shape", "nan", "value"],
)
def test_other_outputs_are_refused(found: torch.Tensor, message: str) -> None:
    wanted = torch.tensor([1.0, 2.0])
    assert check_equal("file", wanted + 1e-6, wanted, tolerance=1e-5) < 1e-5
    with pytest.raises(ParityError, match=message):
        check_equal("file", found, wanted, tolerance=1e-5)
