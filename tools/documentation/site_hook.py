"""mkdocs hook: remove the options for `tests/snippets.py` after the language of a code fence."""

import re
from typing import Any

_FENCE = re.compile(r"^```(?P<kind>\w+) +(?P<info>[^\n]+)$", re.M)
_TITLE = re.compile(r"title=(\S+)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep only the file names, as titles of their code blocks."""

    def fence(found: re.Match[str]) -> str:
        title = _TITLE.search(found["info"])
        return f"```{found['kind']}" + (f' title="{title[1]}"' if title else "")

    return _FENCE.sub(fence, markdown)
