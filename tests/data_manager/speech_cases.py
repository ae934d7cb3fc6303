"""Helpers shared by the speech tests: configs in a temporary folder, and loading."""

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import GlobalConfig
from data_manager.speech.types import LhotseDatasetConfig


def config_of(folder, name="librispeech", **more):
    """Build a config for a corpus in folder/data, prepared in folder/manifests."""
    shared = GlobalConfig(corpus_dir=folder / "data", output_dir=folder / "manifests", **more.pop("shared", {}))
    return LhotseDatasetConfig(name=name, global_config=shared, **more)


def load(config):
    """Load the splits of one data set."""
    return DatasetManager.load_datasets(datasets=[config])[config.name]


def batches(config, split, batch_size=4, **more):
    """Return all batches of one split."""
    return list(DatasetManager.create_dataloader(load(config)[split], config, batch_size=batch_size, **more))
