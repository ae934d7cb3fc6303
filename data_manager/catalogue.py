"""Catalogue of the data sources and of the speech corpora with a lhotse recipe, one line each."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from data_manager import sources  # noqa: F401  (registers the built-in ones)
from data_manager.lhotse_recipes import recipe_names, recipe_signature
from data_manager.registry import SOURCES


def catalogue() -> dict[str, str]:
    """Map `source: NAME` of each data source, and the name of each corpus, to a one-line description."""
    found = {f"source: {name}": first_sentence(SOURCES.get(name).config_type.__doc__ or "") for name in SOURCES}
    return found | {name: _describe_recipe(name) for name in recipe_names()}


def print_catalogue() -> None:
    """Print the catalogue on stdout, one entry per line."""
    lines = catalogue()
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name.ljust(width)}  {line}")


def first_sentence(text: str) -> str:
    """Return a docstring's first sentence on one line, without backquotes."""
    paragraph = text.strip().split("\n\n", 1)[0]
    sentence = re.split(r"(?<=[a-z)\]])\.\s", " ".join(paragraph.split()) + " ", maxsplit=1)[0]
    return sentence.strip().removesuffix(".").replace("`", "")


def _describe_recipe(name: str) -> str:
    """Describe a corpus from its recipe's module docstring, and say if it can be downloaded."""
    recipe = recipe_signature(name)
    spec = find_spec("lhotse")
    assert spec, "recipes are listed only if lhotse is installed"
    source = (Path(spec.origin or "").parent / "recipes" / f"{recipe.module}.py").read_text(encoding="utf-8")
    text = first_sentence(ast.get_docstring(ast.parse(source)) or "")
    text = re.sub(r"^(About (the )?|This is an? |Description taken from )", "", text).rstrip(":")
    known = text if 0 < len(text) <= 110 else f"{text[:107]}..." if text else "a speech corpus"
    return f"{known} ({'downloaded if missing' if recipe.download else 'manual download'})"
