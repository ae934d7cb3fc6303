"""The built-in data sources; importing this module registers them, and imports nothing heavy."""

from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import EmbeddedDatasetConfig, TextDatasetConfig
from data_manager.speech_mixture_types import SpeechMixtureConfig
from data_manager.registry import register_source
from data_manager.speech_types import LhotseDatasetConfig, SpeechConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


def _text_texts(config: TextDatasetConfig) -> "dict[str, Sequence[str]]":
    from data_manager.text import text_texts

    return text_texts(config)


def _embedded_texts(config: EmbeddedDatasetConfig) -> "dict[str, Sequence[str]]":
    from data_manager.text import embedded_texts

    return embedded_texts(config)


def _speech_texts(config: SpeechConfig) -> "dict[str, Sequence[str]]":
    from data_manager.speech import speech_texts

    return dict(speech_texts(config))


@register_source("lhotse", config=LhotseDatasetConfig, texts=_speech_texts)
@register_source("speech_mixture", config=SpeechMixtureConfig, texts=_speech_texts)
def _load_speech(config: SpeechConfig) -> dict[str, Any]:
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
