"""The server process: its address, its signals, and its end within two seconds."""

import errno
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from model_factory.interop.serving.app import Service, create_app
from model_factory.training.errors import InputFileError, UnfitError
from model_factory.yaml_config.exit_codes import GOOD, INTERRUPTED
from model_factory.yaml_config.process import end_output

MIN_KEY = 16
"""Fewest characters of an API key."""
_CONNECTIONS = 128
_TAKEN = (errno.EADDRINUSE, errno.EACCES)


class Server(uvicorn.Server):
    """Server that ends the running job too when a signal ends it."""

    def __init__(self, service: Service, hosts: frozenset[str], key: str | None = None) -> None:
        self.service = service
        super().__init__(
            uvicorn.Config(
                create_app(service, hosts, key),
                log_level="error",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End on SIGTERM or Ctrl-C."""
        super().handle_exit(sig, frame)
        self.service.worker.stop()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that clients wait until they are served; raises UnfitError for a wrong address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        hint = "; --port 0 takes a free one" if error.errno in _TAKEN else ""
        raise UnfitError(f"the server cannot listen on {host}, port {port}: {error.strerror or error}{hint}") from error
    return found


def read_key(path: Path) -> str:
    """Return the API key in a file; raises InputFileError for a file without a key of printable ASCII characters."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise InputFileError(f"--api-key-file {path} cannot be read: {reason}") from error
    if len(key) < MIN_KEY or not key.isprintable() or " " in key:
        raise InputFileError(
            f"--api-key-file {path}: a key is one line of at least {MIN_KEY} characters without spaces, such as that of "
            "openssl rand -hex 32"
        )
    return key


def serve(server: Server, listener: socket.socket) -> NoReturn:
    """Serve until SIGTERM, then end the process with code 0, after Ctrl-C with 130: a call of the model may still run."""
    # uvicorn takes the signals over, and raises them again at its end
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    code = GOOD
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        code = INTERRUPTED
        print("\ninterrupted", file=sys.stderr)
    end_output()
    os._exit(code)
