"""A hub on the loopback interface: one repository with its files, and the requests that were sent to it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "c0ffee" * 6 + "abcd"


class Hub(ThreadingHTTPServer):
    """Server of `files` of the repository owner/name at the commit `SHA`; `seen` lists methods and paths."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.seen, self.commits, self.created = files, [], [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub inside the block."""
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.seen.append(f"POST {path}")
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._json({"url": f"{self.server.url}/owner/name"})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._json(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        elif path.endswith("/commit/main"):
            self.server.commits.append([json.loads(line) for line in body.splitlines()])
            self._json({"commitUrl": f"{self.server.url}/owner/name/commit/{SHA}", "commitOid": SHA})
        else:
            self._json({"warnings": [], "errors": []})

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.seen.append(f"{self.command} {path}")
        if path.startswith("/api/models/owner/name/tree/"):
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in self.server.files.items()
                ]
            )
        elif path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self._json({"id": "owner/name", "sha": SHA, "siblings": siblings, "private": True})
        elif path.startswith(f"/owner/name/resolve/{SHA}/") and path.rpartition(f"{SHA}/")[2] in self.server.files:
            data = self.server.files[path.rpartition(f"{SHA}/")[2]]
            self.send_response(200)
            for key, value in (
                ("ETag", f'"{sha1(data).hexdigest()}"'),
                ("X-Repo-Commit", SHA),
                ("Content-Length", str(len(data))),
            ):
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(data)
        else:
            self._json({"error": "Not Found"}, status=404)

    def _json(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
