"""What can be had, with a line on each: the data sources, and the speech corpora that lhotse has a recipe for."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from data_manager import sources  # noqa: F401  (registers the built-in ones)
from data_manager.lhotse_recipes import recipe_names, recipe_signature
from data_manager.registry import SOURCES


def catalogue() -> dict[str, str]:
    """`source: NAME` for each data source and the bare name for each corpus, to what it is."""
    found = {f"source: {name}": first_sentence(SOURCES.get(name).config_type.__doc__ or "") for name in SOURCES}
    return found | {name: _recipe_line(name) for name in recipe_names()}


def print_catalogue() -> None:
    """Print the catalogue on stdout, a line each."""
    lines = catalogue()
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name.ljust(width)}  {line}")


def first_sentence(text: str) -> str:
    """The beginning of a docstring up to its first full stop, on one line, without markup."""
    paragraph = text.strip().split("\n\n", 1)[0]
    sentence = re.split(r"(?<=[a-z)\]])\.\s", " ".join(paragraph.split()) + " ", maxsplit=1)[0]
    return sentence.strip().removesuffix(".").replace("`", "")


def _recipe_line(name: str) -> str:
    """What the module of a recipe says of its corpus, and whether it can be downloaded."""
    recipe = recipe_signature(name)
    spec = find_spec("lhotse")
    assert spec, "there are recipes only where lhotse is installed"
    source = (Path(spec.origin or "").parent / "recipes" / f"{recipe.module}.py").read_text(encoding="utf-8")
    text = first_sentence(ast.get_docstring(ast.parse(source)) or "")
    text = re.sub(r"^(About (the )?|This is an? |Description taken from )", "", text).rstrip(":")
    known = text if 0 < len(text) <= 110 else f"{text[:107]}..." if text else "a speech corpus"
    return f"{known} ({'downloaded where it is missing' if recipe.download else 'to be had by hand'})"
