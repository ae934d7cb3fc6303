"""The built-in data sources; importing this module registers them, and imports nothing heavy."""

from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import EmbeddedDatasetConfig, LhotseDatasetConfig, TextDatasetConfig
from data_manager.registry import register_source

if TYPE_CHECKING:
    from collections.abc import Sequence


def _text_texts(config: TextDatasetConfig) -> "dict[str, Sequence[str]]":
    from data_manager.text import text_texts

    return text_texts(config)


def _embedded_texts(config: EmbeddedDatasetConfig) -> "dict[str, Sequence[str]]":
    from data_manager.text import embedded_texts

    return embedded_texts(config)


@register_source("lhotse", config=LhotseDatasetConfig)
def _load_lhotse(config: LhotseDatasetConfig) -> dict[str, Any]:
    from data_manager.speech import load_speech

    return load_speech(config)


@register_source("text", config=TextDatasetConfig, texts=_text_texts)
def _load_text(config: TextDatasetConfig) -> dict[str, Any]:
    from data_manager.text import load_text

    return load_text(config)


@register_source("embedded", config=EmbeddedDatasetConfig, texts=_embedded_texts)
def _load_embedded(config: EmbeddedDatasetConfig) -> dict[str, Any]:
    from data_manager.text import load_embedded

    return load_embedded(config)
