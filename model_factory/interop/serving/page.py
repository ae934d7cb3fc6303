"""The page of the server: one HTML file whose script and style are named by their hashes, and nothing else may run."""

import base64
import hashlib
import html
import re
from importlib.resources import files

from starlette.responses import Response

_NAME = "{{ name }}"


def page_response(name: str) -> Response:
    """Return the page on which one types a prompt and watches it fill; `name` is that of the model."""
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _hash_of(text, "script"),
        "style-src": _hash_of(text, "style"),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    shown = html.escape(name).encode("utf-8", errors="backslashreplace").decode()
    return Response(text.replace(_NAME, shown), 200, headers, "text/html; charset=utf-8")


def _hash_of(text: str, tag: str) -> str:
    """Return the source expression of the only element with this tag."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
