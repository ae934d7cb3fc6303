"""Self-contained HTML documents: text, tables and SVG plots, without scripts or external resources."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from model.checkpoint import atomic_replace


class PageError(OSError):
    """Error for a page that cannot be written."""


@dataclass(frozen=True)
class Section:
    """Section of a page: a heading, then text, table, plot and blocks, in this order; empty parts are left out.

    `rows` are those of the table, header first; `svg` comes from `model_factory.pages.plots`; `blocks` are preformatted text.
    """

    title: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    svg: str = ""
    blocks: Sequence[str] = ()


def render_page(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Render a page to HTML; `facts` are named values below its title. All text is escaped."""
    environment = Environment(
        loader=PackageLoader("model_factory.pages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    marked = [(section, Markup(section.svg)) for section in sections]  # made by matplotlib, which escapes its labels
    return environment.get_template("page.html").render(title=title, facts=facts, sections=marked)


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a page atomically; raises PageError."""
    try:
        with atomic_replace(Path(os.path.realpath(path))) as temporary:  # keeps a symbolic link
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PageError(f"{path}: the page cannot be written: {error.strerror or error}") from error
