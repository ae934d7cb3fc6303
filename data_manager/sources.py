"""Built-in data sources. Importing this module registers them and imports nothing heavy."""

from typing import TYPE_CHECKING, Any

from data_manager.molecules.types import SmilesDatasetConfig
from data_manager.registry import register_source
from data_manager.speech.mixture_types import SpeechMixtureConfig
from data_manager.speech.types import LhotseDatasetConfig, SpeechConfig
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.table_types import (
    CsvDatasetConfig,
    DiskDatasetConfig,
    HubDatasetConfig,
    JsonDatasetConfig,
    ParquetDatasetConfig,
)
from data_manager.text.types import EmbeddedDatasetConfig, TextDatasetConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_manager.documents import Corpus
    from data_manager.text.mixture import Mixture


def _speech_texts(config: SpeechConfig) -> "dict[str, Sequence[str]]":
    from data_manager.speech.corpus import get_transcripts

    return dict(get_transcripts(config))


@register_source("speech_mixture", config=SpeechMixtureConfig, texts=_speech_texts)
@register_source("lhotse", config=LhotseDatasetConfig, texts=_speech_texts)
def _load_speech(config: SpeechConfig) -> dict[str, Any]:
    from data_manager.speech.corpus import load_speech

    return load_speech(config)


@register_source("text", config=TextDatasetConfig)
def _load_text(config: TextDatasetConfig) -> "dict[str, Corpus]":
    from data_manager.text.corpora import text_corpora

    return text_corpora(config)


@register_source("parquet", config=ParquetDatasetConfig)
@register_source("csv", config=CsvDatasetConfig)
@register_source("json", config=JsonDatasetConfig)
def _load_table(config: "JsonDatasetConfig | CsvDatasetConfig | ParquetDatasetConfig") -> "dict[str, Corpus]":
    from data_manager.text.corpora import table_corpora

    return table_corpora(config)


@register_source("disk", config=DiskDatasetConfig)
def _load_disk(config: DiskDatasetConfig) -> "dict[str, Corpus]":
    from data_manager.text.arrow import disk_corpora
    from data_manager.text.corpora import apply_splits

    return apply_splits(config, disk_corpora(config))


@register_source("hub", config=HubDatasetConfig)
def _load_hub(config: HubDatasetConfig) -> "dict[str, Corpus]":
    from data_manager.text.corpora import apply_splits
    from data_manager.text.hub import hub_corpora

    return apply_splits(config, hub_corpora(config))


@register_source("smiles", config=SmilesDatasetConfig)
def _load_smiles(config: SmilesDatasetConfig) -> "dict[str, Corpus]":
    from data_manager.molecules.load import smiles_corpora

    return smiles_corpora(config)


@register_source("mixture", config=MixtureDatasetConfig)
def _load_mixture(config: MixtureDatasetConfig) -> "dict[str, Mixture]":
    from data_manager.loading import text_splits
    from data_manager.text.mixture import load_mixtures

    return load_mixtures(config, text_splits)


@register_source("embedded", config=EmbeddedDatasetConfig)
def _load_embedded(config: EmbeddedDatasetConfig) -> "dict[str, Corpus]":
    from data_manager.text.corpora import embedded_corpora

    return embedded_corpora(config)
