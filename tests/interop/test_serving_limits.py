"""Limits of `model-factory serve`: what is refused, who is served next, keys and names, and the end of the server."""

import asyncio
import http.client
import json
import socket
import threading

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from model_factory.interop.serving import guard
from model_factory.interop.serving.worker import BusyError, StoppedError, Worker
from tests.evaluation.untrained_runs import DECODER, STACK
from tests.interop.serving import JSON, LONG, make_runs, serving, texts_of
from tests.processes import wait_for

SHORT = {**DECODER, "decoder": {**STACK, "max_length": 40}}
KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"), SHORT)


@pytest.fixture(scope="module")
def server(runs):
    with serving(runs["mdlm"]) as running:
        yield running


@pytest.fixture(scope="module")
def decoder(runs):
    with serving(runs["decoder"]) as running:
        yield running


@pytest.fixture
def held(server):
    """Hold the model of the server before its next call, until the event is set."""
    let_go, calls = threading.Event(), []

    def wait(*_):
        calls.append(1)
        let_go.wait()

    handle = server.service.run.model.register_forward_pre_hook(wait)
    network = server.service.run.model.network.register_forward_pre_hook(wait)
    try:
        yield let_go, calls
    finally:
        let_go.set()
        handle.remove()
        network.remove()


@pytest.fixture
def network_calls(server):
    """List the calls of the server's network during a test."""
    calls = []
    handle = server.service.run.model.network.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "not valid JSON"),
        (b"\xff", 400, "not valid JSON"),
        (b"[" * 100_000, 400, "nested too deep"),
        (b"[]", 400, "must be a JSON object"),
        ({"model": "tiny"}, 400, "the field 'prompt' is missing"),
        ({"model": "tiny", "prompt": ["a", "b"]}, 400, "prompt: Input should be a valid string"),
        ({"model": "tiny", "prompt": "a", "logprobs": 3}, 400, "there is no field 'logprobs'; known: model"),
        ({"model": "gpt-4", "prompt": "a"}, 404, "there is no model 'gpt-4'; this server has 'tiny'"),
        ({"model": "tiny", "prompt": "a", "n": 9}, 400, "n: Input should be less than or equal to 8; got 9"),
        ({"model": "tiny", "prompt": "a", "n": True}, 400, "n: Input should be a valid integer"),
        ({"model": "tiny", "prompt": "a", "steps": 1025}, 400, "steps: Input should be less than or equal to 1024"),
        ({"model": "tiny", "prompt": "a", "max_tokens": 10**6}, 400, "draws at most 4,096"),
        ({"model": "tiny", "prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', 400, "temperature"),
        ({"model": "tiny", "prompt": "a", "temperature": 1e-9}, 400, "temperature is 0, which takes"),
        ({"model": "tiny", "prompt": "a", "top_p": 0}, 400, "top_p"),
        ({"model": "tiny", "prompt": "a", "seed": -1}, 400, "seed"),
        ({"model": "tiny", "prompt": "a", "stop": ["a"] * 5}, 400, "stop"),
        ({"model": "tiny", "prompt": "a", "stop": ""}, 400, "stop"),
        ({"model": "tiny", "prompt": "a[[2]]", "stop": "b"}, 400, "leave stop out"),
        ({"model": "tiny", "prompt": "a[[2]]", "suffix": "b"}, 400, "suffix makes a hole"),
        ({"model": "tiny", "prompt": "a", "suffix": "b[[2]]"}, 400, "suffix makes a hole"),
        ({"model": "tiny", "prompt": "[[]] a [[]]"}, 400, "two holes [[]] without a size"),
        ({"model": "tiny", "prompt": "the [[50]]"}, 400, "a sample has 24; shorten it, or set max_tokens"),
        ({"model": "tiny", "prompt": "the [[x]]"}, 400, "a hole of 12 tokens is [[12]]"),
        ({"model": "tiny", "prompt": "\ud800"}, 400, "lone surrogate"),
        ({"model": "tiny", "prompt": "a", "condition": "1"}, 400, "trained without a condition"),
    ],
)
def test_invalid_request_is_refused(server, network_calls, content, status, words):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    found, headers, text = server.request("POST", "/v1/completions", data)
    assert found == status, text
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not any(name.lower().startswith("access-control") for name in headers)
    if not isinstance(content, bytes) and content.get("model") == "tiny" and status == 400:
        (streamed, headers, again) = server.request("POST", "/v1/completions", {**content, "stream": True})
        assert (streamed, json.loads(again)["error"]) == (status, error)
    assert network_calls == []


def test_requests_that_do_not_fit_a_decoder(decoder):
    wrong = decoder.post(status=400, prompt="the dog", max_tokens=40)["error"]
    assert wrong["message"].startswith("max_tokens is 40, and the prompt leaves 33 positions of the model")
    assert (wrong["param"], wrong["code"]) == ("max_tokens", "context_length_exceeded")
    assert len(texts_of(decoder.post(prompt="the dog", max_tokens=33))) == 1
    assert decoder.post(status=400, prompt="the " * 20)["error"]["message"].startswith("a prompt of 80 tokens")
    assert decoder.post(status=400, prompt="a", steps=3)["error"]["param"] == "steps"
    assert decoder.post(status=400, prompt="a", suffix="b")["error"]["param"] == "suffix"
    message = {"role": "user", "content": "hello"}
    assert "not trained on conv" in decoder.post("chat/completions", 400, messages=[message])["error"]["message"]
    assert decoder.post("chat/completions", 400, messages=[])["error"]["param"] == "messages"
    unknown = decoder.post("chat/completions", 400, messages=[message | {"name": "a"}])["error"]
    assert unknown["message"] == "there is no field 'name'; known: role, content"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/completions", {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/completions", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/v1/completions", {}, 415),
        ("GET", "/v1/completions", None, 405),
        ("OPTIONS", "/v1/completions", {"Origin": "https://evil.example"}, 405),
        ("GET", "/v1/files", None, 404),
        ("GET", "/../config.yml", None, 404),
        ("GET", "/v1/models/other", None, 404),
        ("GET", "/health", {"Host": "evil.example"}, 400),
        ("GET", "/health", {"Host": "localhost.evil.example"}, 400),
        ("GET", "/health", {"Host": "evil.example:80"}, 400),
        ("GET", "/health", {"Host": ""}, 400),
        ("GET", "/", {"Host": "127.0.0.1.evil.example"}, 400),
        ("GET", "/health", {"Host": "LOCALHOST:1"}, 200),
        ("GET", "/health", {"Host": "[::1]:8000"}, 200),
        ("GET", "/v1/models/tiny", {"Host": "localhost"}, 200),
    ],
)
def test_request_of_another_kind_is_refused(server, network_calls, method, path, headers, status):
    found, given, text = server.request(method, path, b"{}" if method == "POST" else None, headers)
    assert found == status
    assert ("error" in json.loads(text)) == (status != 200)
    assert network_calls == []
    assert not any(name.lower().startswith("access-control") for name in given)


def test_large_and_slow_bodies_are_refused(server, monkeypatch):
    body = json.dumps({"model": "tiny", "prompt": "a" * 10_000_000}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:1000])
    assert connection.getresponse().status == 413
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for size in [2**16] * 16 + [1]:  # one byte more than the limit, and no end that would come after the answer
        connection.send(b"%x\r\n%s\r\n" % (size, b"x" * size))
    assert connection.getresponse().status == 413
    connection.close()
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.01)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408
    connection.close()


def test_largest_body_is_read(decoder):
    found, _, text = decoder.request("POST", "/v1/completions", {"model": "tiny", "prompt": "a" * (2**20 - 60)})
    assert (found, "max_length is 40" in text) == (400, True)


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_ends_its_run(server, held, stream):
    let_go, calls = held
    data = json.dumps({"model": "tiny", **LONG, "stream": stream}).encode()
    client = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
    wait_for(lambda: calls)
    job = server.service.worker.running
    client.close()
    wait_for(lambda: job._is_cancelled)
    let_go.set()
    before = len(calls)
    assert texts_of(server.post(prompt="the ", steps=2, seed=1))
    assert len(calls) < before + 60  # of 1,024


def test_client_that_leaves_a_stream_ends_its_run(server):
    calls = []
    handle = server.service.run.model.network.register_forward_pre_hook(lambda *_: calls.append(1))
    connection, response = server.open("POST", "/v1/completions", {"model": "tiny", **LONG, "stream": True})
    assert response.readline().startswith(b"data: ")
    response.close()
    connection.close()
    wait_for(lambda: server.service.worker.running is None)
    handle.remove()
    assert len(calls) < 500


def test_full_queue_answers_503(server, held):
    let_go, calls = held
    clients = []
    for number in range(1 + server.service.worker.max_waiting):
        client = threading.Thread(target=lambda: server.post(prompt="the ", steps=1))
        client.start()
        clients.append(client)
        wait_for(lambda number=number: calls and server.service.worker.waiting == number)
    status, headers, text = server.request("POST", "/v1/completions", {"model": "tiny", "prompt": "the "})
    assert (status, headers["retry-after"]) == (503, "5")
    assert json.loads(text)["error"]["code"] == "busy"
    assert json.loads(server.request("GET", "/health")[2]) == {"status": "ok", "running": 1, "waiting": 8}
    let_go.set()
    for client in clients:
        client.join()
    assert texts_of(server.post(prompt="the ", steps=1))


def test_worker_runs_jobs_in_order_and_drops_cancelled_ones():
    async def scenario():
        worker, done, let_go = Worker(max_waiting=2), [], threading.Event()

        def work(number):
            def run(job):
                if number == 0:
                    job.send("begun")
                    let_go.wait()
                    job.send("never")
                done.append(number)
                job.send(number)

            return run

        first = worker.submit(work(0))
        events = aiter(first)
        assert await anext(events) == "begun"
        second, third = worker.submit(work(1)), worker.submit(work(2))
        with pytest.raises(BusyError):
            worker.submit(work(3))
        second.cancel()
        assert [event async for event in second] == []
        fourth = worker.submit(work(4))
        first.cancel()
        assert [event async for event in events] == []
        let_go.set()
        assert [[event async for event in job] for job in (third, fourth)] == [[2], [4]]
        assert done == [2, 4]
        worker.stop()
        with pytest.raises(StoppedError):
            worker.submit(work(5))

    asyncio.run(scenario())


def test_unexpected_error_names_no_prompt(server, capfd, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret of a prompt")

    handle = server.service.run.model.network.register_forward_pre_hook(fail)
    secret = {"prompt": "the secret of a prompt [[2]]", "max_tokens": 4}
    try:
        error = server.post(status=500, **secret)["error"]
        assert (error["type"], error["message"]) == ("server_error", "the server failed; its standard error says where")
        status, _, text = server.request("POST", "/v1/completions", {"model": "tiny", "stream": True, **secret})
        assert (status, json.loads(text)["error"]) == (500, error)
    finally:
        handle.remove()
    assert texts_of(server.post(**secret))
    out, err = capfd.readouterr()
    assert "RuntimeError while answering a request" in err
    assert "test_serving_limits.py" in err
    assert "secret" not in (out + err).replace('secret of a prompt"', "")


def test_error_in_a_stream_is_its_last_event(server):
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError

    handle = server.service.run.model.network.register_forward_pre_hook(fail)
    _, _, text = server.request("POST", "/v1/completions", {"model": "tiny", "stream": True, "prompt": "the "})
    handle.remove()
    *_, last, end = text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "out_of_memory"


def test_key_is_asked_for_below_v1(runs):
    with serving(runs["decoder"], key=KEY, hosts=["models.example"]) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": "\xe9"},
        ):
            status, found, text = server.request("POST", "/v1/completions", {"model": "tiny"}, JSON | headers)
            assert (status, found["www-authenticate"]) == (401, "Bearer")
            assert json.loads(text)["error"]["code"] == "invalid_api_key"
        known = {**JSON, "Authorization": f"Bearer {KEY}", "Host": "models.example:8000"}
        assert server.request("POST", "/v1/completions", {"model": "tiny", "prompt": "a"}, known)[0] == 200
        assert server.request("GET", "/v1/models", None, {})[0] == 401
        for host, status in (
            ("localhost:1/x", 400),
            ("localhost/x?", 400),
            ("localhost:80@a", 400),
            ("localhost:1", 401),
        ):
            assert server.request("GET", "/v1/models", None, {"Host": host})[0] == status
        assert server.request("GET", "/health")[0] == server.request("GET", "/")[0] == 200
