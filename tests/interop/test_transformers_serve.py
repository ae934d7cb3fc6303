"""transformers' own server on an exported decoder."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
import transformers

import model_factory.interop.hf
from model_factory.interop.hf.decoder import ModelFactoryForCausalLM
from tests.interop.exports import decoder, export, model_of, opened, sharpen, write_run
from tests.processes import wait_for


def test_registration_names_our_classes_in_transformers() -> None:
    assert transformers.ModelFactoryForCausalLM is ModelFactoryForCausalLM
    assert {"ModelFactoryDenoiser", "ModelFactoryEncoder", "ModelFactoryForSeq2SeqLM"} <= vars(transformers).keys()


def test_command_of_transformers_runs_with_our_classes(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["hf", "serve", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(model_factory.interop.hf.__name__, run_name="__main__")
    assert ended.value.code == 0
    assert "python -m model_factory.interop.hf serve" in capsys.readouterr().out


def test_server_of_transformers_answers_with_the_texts_of_the_run(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("fastapi", reason="the extra 'serving' of transformers is not installed")
    pytest.importorskip("openai", reason="the extra 'serving' of transformers is not installed")
    from transformers.cli.serve import Serve

    run = write_run(tmp_path / "r", decoder())
    sharpen(run)
    assert export(run, tmp_path / "out", capsys, "--format", "hf")[0] == 0
    tokenizer = opened(run).require_tokenizer()
    ids = torch.tensor([tokenizer.encode("the dog")])
    (tokens,) = model_of(run).generate(ids, 8, temperature=0.0, eos_token=tokenizer.eos_token_id).tolist()
    wanted = tokenizer.decode(tokens[ids.shape[1] :])
    assert len(set(wanted)) > 2
    served = Serve(str(tmp_path / "out"), device="cpu", port=0, non_blocking=True)
    try:
        wait_for(lambda: served.server.started, served._thread)
        port = served.server.servers[0].sockets[0].getsockname()[1]
        body = {"model": str(tmp_path / "out"), "prompt": "the dog", "max_tokens": 8, "temperature": 0}
        assert json.loads(_post(port, body))["choices"][0]["text"] == wanted
        events = [line.removeprefix("data: ") for line in _post(port, {**body, "stream": True}).split("\n\n") if line]
        parts = [json.loads(event)["choices"][0]["text"] for event in events if event != "[DONE]"]
        assert "".join(parts) == wanted
    finally:
        served.kill_server()


def _post(port: int, body: dict[str, Any]) -> str:
    data = json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/completions", data, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return str(answer.read().decode())
