"""The process of `model-factory serve`: its options, its port, and its end by a signal."""

import http.client
import json
import os
import signal
import sys

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from model_factory.cli.serve import main
from model_factory.evaluation.run import open_run
from model_factory.interop.serving.app import Service
from model_factory.interop.serving.server import listen
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.process import begin_command
from tests.interop.serving import JSON, LONG, make_runs
from tests.processes import die_with_parent, wait_for
from tests.training.runs import CONTEXT


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("kind", "task", "words"),
    [
        ("decoder", "sequence_classification", "cannot generate"),
        ("mdlm", "custom", "served are decoders, translators, discrete"),
        ("decoder", "latent_diffusion", "has no latents; give a run of task latent_diffusion"),
    ],
)
def test_run_of_another_task_is_refused(runs, kind, task, words):
    run = open_run(runs[kind])
    object.__setattr__(run.config.training, "task", task)
    with pytest.raises(UnfitError, match=words):
        Service(run, "run")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "lets other machines call the server, so it needs a key: --api-key-file FILE"),
        (["--host", "models.example"], 2, "so it needs a key"),
        (["--host", "::"], 2, "so it needs a key"),
        (["--host", "0.0.0.0", "--api-key-file", "key"], 2, "by which name clients call it: --allow-host NAME"),
        (["--port", "70000"], 2, "takes a number from 0 to 65535"),
        (["--max-tokens", "0"], 2, "--max-tokens takes a number of tokens of at least 1"),
        (["--api-key-file", "none"], 3, "--api-key-file none cannot be read: No such file"),
        (["--api-key-file", "key"], 3, "a key is one line of at least 16 characters"),
    ],
)
def test_wrong_usage(runs, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("short\n")
    try:
        found = main(["--run", str(runs["decoder"]), *words])
    except SystemExit as ended:
        found = ended.code
    assert found == code
    assert message in capsys.readouterr().err


def test_taken_port_is_reported(runs, capsys):
    with listen("127.0.0.1", 0) as taken:
        assert main(["--run", str(runs["decoder"]), "--port", str(taken.getsockname()[1])]) == 1
    assert "Address already in use; --port 0 takes a free one" in capsys.readouterr().err


def test_missing_extra_is_named(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["--run", str(runs["decoder"])]) == 1
    assert "pip install 'model-factory[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_ends_the_server_while_it_draws(runs, tmp_path, number, code):
    log = tmp_path / "log"
    process = CONTEXT.Process(target=serve_in_process, args=(str(runs["mdlm"]), log))
    process.start()
    wait_for(lambda: log.exists() and "serving run on" in log.read_text(), process)
    port = int(log.read_text().rstrip().rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    content = {"model": "run", **LONG, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(content), JSON)
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    assert b"the server is ending" in response.read()
    connection.close()
    assert "the " not in log.read_text()


def serve_in_process(run, log):
    die_with_parent()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin_command()
    sys.exit(main(["--run", run, "--port", "0"]))
