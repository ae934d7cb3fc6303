"""Built-in data sources. Importing this module registers them; the modules that load data are imported at the first call."""

from data_manager.molecules.types import SmilesDatasetConfig
from data_manager.registry import SOURCES, register_source
from data_manager.speech.mixture_types import SpeechMixtureConfig
from data_manager.speech.types import LhotseDatasetConfig
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.table_types import (
    CsvDatasetConfig,
    DiskDatasetConfig,
    HubDatasetConfig,
    JsonDatasetConfig,
    ParquetDatasetConfig,
)
from data_manager.text.types import EmbeddedDatasetConfig, TextDatasetConfig
from model_factory.yaml_config.registry import import_on_call

_load_speech = import_on_call("data_manager.speech.corpus:load_speech")
_transcripts = import_on_call("data_manager.speech.corpus:get_transcripts")
_load_table = import_on_call("data_manager.text.corpora:table_corpora")

register_source("lhotse", config=LhotseDatasetConfig, texts=_transcripts)(_load_speech)
for _name in ("cuts", "kaldi", "audio_table", "rttm"):
    SOURCES.add_lazy(_name, "data_manager.speech.own.types")
register_source("speech_mixture", config=SpeechMixtureConfig, texts=_transcripts)(_load_speech)
register_source("text", config=TextDatasetConfig)(import_on_call("data_manager.text.corpora:text_corpora"))
register_source("json", config=JsonDatasetConfig)(_load_table)
register_source("csv", config=CsvDatasetConfig)(_load_table)
register_source("parquet", config=ParquetDatasetConfig)(_load_table)
register_source("disk", config=DiskDatasetConfig)(import_on_call("data_manager.text.corpora:disk_splits"))
register_source("hub", config=HubDatasetConfig)(import_on_call("data_manager.text.corpora:hub_splits"))
register_source("smiles", config=SmilesDatasetConfig)(import_on_call("data_manager.molecules.load:smiles_corpora"))
register_source("mixture", config=MixtureDatasetConfig)(import_on_call("data_manager.loading:mixture_splits"))
register_source("embedded", config=EmbeddedDatasetConfig)(import_on_call("data_manager.text.corpora:embedded_corpora"))
