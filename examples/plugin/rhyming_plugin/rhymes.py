"""Data source `rhymes`, which generates its documents."""

from typing import Annotated, Literal

from pydantic import Field

from model_factory import TokensConfig, register_source

COLOURS = ("red", "blue", "green", "white")


class RhymesConfig(TokensConfig):
    """Keys of `source: rhymes`."""

    source: Literal["rhymes"] = "rhymes"
    count: Annotated[int, Field(gt=0, le=1_000_000)] = 8
    """Number of training documents. [documents]"""


@register_source("rhymes", config=RhymesConfig)
def load(config: RhymesConfig) -> dict[str, list[str]]:
    """Return the documents of each split."""
    rhymes = [f"roses are {COLOURS[number % len(COLOURS)]} {number}" for number in range(config.count)]
    return {"train": rhymes, "validation": rhymes[:4]}
