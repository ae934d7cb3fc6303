"""Check that a server is reachable, within two seconds."""

import socket
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

TIMEOUT = 1.5
"""Seconds to wait for the DNS lookup and the connection."""


def unreachable(url: str) -> str | None:
    """Return why the server of `url`, or its proxy, does not answer; None if it does."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(host):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    reasons: list[str | None] = ["no answer within 2 s"]
    # a DNS lookup has no timeout, so it runs in a thread
    thread = Thread(
        target=_connect, args=(parts.hostname or "", parts.port or _port(parts.scheme), reasons), daemon=True
    )
    thread.start()
    thread.join(TIMEOUT)
    return reasons[-1]


def _port(scheme: str) -> int:
    return 80 if scheme == "http" else 443


def _connect(host: str, port: int, reasons: list[str | None]) -> None:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
        reasons.append(None)
    except (OSError, UnicodeError) as error:
        reasons.append(getattr(error, "strerror", None) or str(error))
