"""Local fake of the hub: just enough of its interface to download one data set and one tokenizer."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(files: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve `{"datasets/owner/name" or "owner/name": {file: content}}`; gives the address, and a list of what is asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def missing(self, what: str) -> None:
            self.answer(404, json.dumps({"error": what}).encode(), X_Error_Code=what, X_Error_Message=what)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            asked.append(f"{self.command} {path}")
            if path.startswith("api/"):
                self.api(path.removeprefix("api/").removeprefix("models/"))
                return
            repo, _, rest = path.partition("/resolve/")
            content = files.get(repo, {}).get(rest.partition("/")[2])
            if content is None:
                self.missing("EntryNotFound" if repo in files else "RepoNotFound")
                return
            etag = hashlib.sha1(content).hexdigest()
            self.answer(200, content, X_Repo_Commit=SHA, ETag=f'"{etag}"', Accept_Ranges="bytes")

        do_HEAD = do_GET

        def api(self, path: str) -> None:
            repo = next((name for name in files if path == name or path.startswith(f"{name}/")), None)
            if repo is None:
                self.missing("RepoNotFound")
                return
            rest = path.removeprefix(repo).strip("/")
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files[repo].items()
            ]
            if rest.startswith("tree/"):
                inside = rest.removeprefix("tree/").partition("/")[2]
                self.answer(200, json.dumps([one for one in listed if one["path"].startswith(inside)]).encode())
                return
            if rest.startswith("paths-info/"):
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size).decode()
                self.answer(200, json.dumps([one for one in listed if one["path"] in unquote(body)]).encode())
                return
            info = {"id": repo.removeprefix("datasets/"), "sha": SHA, "private": False, "tags": [], "downloads": 0,
                    "siblings": [{"rfilename": one["path"]} for one in listed]}  # fmt: skip
            self.answer(200, json.dumps(info).encode())

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
