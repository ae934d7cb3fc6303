"""Checks of each request before it is read: name of the host, API key, type and size of the body.

A page of another site can send requests to a server on this machine. It cannot read the answers, since there is no CORS
header; nor can it send JSON, which a browser asks for permission first; nor can a name that it points at this machine (DNS
rebinding) pass for one of ours.
"""

import asyncio
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from model_factory.interop.serving.bodies import ApiError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MAX_BODY = 2**20
"""Largest body of a request. [bytes]"""
BODY_SECONDS = 10.0
"""Longest time that a client takes to send its body. [s]"""


@dataclass(frozen=True)
class Guard:
    """Middleware that refuses requests with another Host name than `hosts`, and without the key to anything below /v1."""

    app: ASGIApp
    hosts: frozenset[str]
    key: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused, and pass on any other."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self._problem(Request(scope))
        await (self.app if problem is None else error_response(problem))(scope, receive, send)

    def _problem(self, request: Request) -> ApiError | None:
        name = host_name(request.headers.get("host", ""))
        if name not in self.hosts:
            return ApiError(400, f"this server is not called {name[:80]!r}; its names: {', '.join(sorted(self.hosts))}")
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
        is_known = self.key is None or hmac.compare_digest(given, self.key.encode())
        if request.scope["path"].startswith("/v1") and not is_known:  # the path of `request.url` depends on the Host
            message = "a request needs the server's key, in a header: Authorization: Bearer KEY"
            return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return None


def host_name(host: str) -> str:
    """Return the name in a Host header, without its port: `[::1]` of `[::1]:8000`."""
    return re.sub(r":\d{1,5}\Z", "", host).lower()


def allowed_hosts(names: Iterable[str]) -> frozenset[str]:
    """Return the names of the Host header that are allowed: those of this machine, and `names`."""
    return frozenset({*LOOPBACK, *(f"[{name}]" if name.count(":") > 1 else name.lower() for name in names)})


async def read_limited(request: Request) -> bytes:
    """Return the body of a request with JSON; raises ApiError for another type and a body that is large or slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the content-type is {kind[:80]!r}, and must be application/json")
    too_large = ApiError(413, f"the body is larger than {MAX_BODY:,} bytes", headers={"connection": "close"})
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY:
        raise too_large
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                found += chunk
                if len(found) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        message = f"the body did not arrive within {BODY_SECONDS:g} s"
        raise ApiError(408, message, headers={"connection": "close"}) from None
    return bytes(found)


def error_response(error: ApiError) -> Response:
    """Return the answer to a request that failed."""
    return json_response(error.as_dict(), error.status, dict(error.headers or {}))


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON in ASCII, which has a form for each text."""
    kept = {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})}
    return Response(json.dumps(content), status, kept, "application/json")
