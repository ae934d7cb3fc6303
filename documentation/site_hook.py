"""mkdocs' hook: the marks that `tests/snippets.py` reads behind a fence's language are none that a reader needs."""

import re
from typing import Any

_FENCE = re.compile(r"^```(?P<kind>\w+) +(?P<info>[^\n]+)$", re.M)
_TITLE = re.compile(r"title=(\S+)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the names of files as titles of their blocks, and no other mark."""

    def fence(found: re.Match[str]) -> str:
        title = _TITLE.search(found["info"])
        return f"```{found['kind']}" + (f' title="{title[1]}"' if title else "")

    return _FENCE.sub(fence, markdown)
