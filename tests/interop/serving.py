"""Servers of untrained runs in a thread of the test, and requests to them."""

import http.client
import json
import threading
from contextlib import contextmanager

from model_factory.evaluation.run import open_run
from model_factory.interop.serving.app import Service
from model_factory.interop.serving.guard import allowed_hosts
from model_factory.interop.serving.server import Server, listen
from tests.evaluation.untrained_runs import DECODER, MDLM, make_run, text_data
from tests.processes import wait_for

JSON = {"Content-Type": "application/json"}
LONG = {"prompt": "the ", "steps": 1024, "n": 8, "max_tokens": 4000}
"""Request that takes minutes."""


def make_runs(folder, decoder=DECODER):
    """Write the untrained runs `mdlm` and `decoder`; return their folders by name."""
    made = {"mdlm": (MDLM, "diffusion"), "decoder": (decoder, "language_modelling")}
    return {
        name: make_run(folder / name, model, text_data(folder / name), task) for name, (model, task) in made.items()
    }


class Running:
    """Server that runs in a thread."""

    def __init__(self, run, key=None, hosts=(), **settings):
        self.service = Service(open_run(run), "tiny", **settings)
        self.server = Server(self.service, allowed_hosts(hosts), key)
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self.server.run, args=([listener],))
        self._thread.start()
        wait_for(lambda: self.server.started, self._thread)

    def stop(self):
        self.service.worker.stop()
        self.server.should_exit = True
        self._thread.join()

    def open(self, method, path, content=None, headers=None):
        """Return the connection and the response of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        data = content if content is None or isinstance(content, bytes) else json.dumps(content)
        connection.request(method, path, data, JSON if headers is None else headers)
        return connection, connection.getresponse()

    def request(self, method, path, content=None, headers=None):
        """Return status, headers and text of the answer to a request."""
        connection, response = self.open(method, path, content, headers)
        try:
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def post(self, path="completions", status=200, **content):
        """Return the JSON of the answer to a request for texts."""
        found, _, text = self.request("POST", f"/v1/{path}", {"model": "tiny", **content})
        assert found == status, text
        return json.loads(text)

    def stream(self, path="completions", **content):
        """Return the events of a stream."""
        _, headers, text = self.request("POST", f"/v1/{path}", {"model": "tiny", "stream": True, **content})
        assert headers["content-type"].startswith("text/event-stream"), text
        *events, done, rest = text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


@contextmanager
def serving(run, **settings):
    """Serve a run inside the block."""
    running = Running(run, **settings)
    try:
        yield running
    finally:
        running.stop()


def texts_of(answer, path="completions"):
    """Return the texts of the choices of an answer."""
    return [one["text"] if path == "completions" else one["message"]["content"] for one in answer["choices"]]


def join(events, n=1):
    """Join the texts of a stream, and return them with the reasons for their ends."""
    texts, reasons = [""] * n, [None] * n
    for event in events:
        for choice in event["choices"]:
            delta = choice["text"] if "text" in choice else choice["delta"]["content"]
            texts[choice["index"]] += delta
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    return texts, reasons
