"""One HTML file with everything in it: text, tables, pictures as SVG; no script, nothing fetched."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from model.checkpoint import replacing


class PageError(OSError):
    """A page that cannot be written."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it, in this order; whatever is empty is left out.

    `rows` are a table's, its head first; `svg` comes from `pages.plots`; `blocks` are kept as they are, line by line.
    """

    title: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    svg: str = ""
    blocks: Sequence[str] = ()


def render(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The page; `facts` are named values below its title. All text is escaped."""
    environment = Environment(
        loader=PackageLoader("pages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    marked = [(section, Markup(section.svg)) for section in sections]  # made by matplotlib, which escapes its labels
    return environment.get_template("page.html").render(title=title, facts=facts, sections=marked)


def write(path: str | os.PathLike[str], page: str) -> None:
    """Write a page, whole or not at all; raises PageError."""
    try:
        with replacing(Path(os.path.realpath(path))) as temporary:  # a link stays one
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PageError(f"{path}: the page cannot be written: {error.strerror or error}") from error
