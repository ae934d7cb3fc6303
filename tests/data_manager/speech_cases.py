"""What the tests of speech share: configs over a temporary folder, and loading by them."""

from data_manager.data_manager import DatasetManager
from data_manager.dataset_types import GlobalConfig
from data_manager.speech_types import LhotseDatasetConfig


def config_of(folder, name="librispeech", **more):
    """A corpus in folder/data, prepared in folder/manifests."""
    shared = GlobalConfig(corpus_dir=folder / "data", output_dir=folder / "manifests", **more.pop("shared", {}))
    return LhotseDatasetConfig(name=name, global_config=shared, **more)


def load(config):
    """The splits of one data set."""
    return DatasetManager.load_datasets(datasets=[config])[config.name]


def batches(config, split, batch_size=4, **more):
    """All batches of one split."""
    return list(DatasetManager.create_dataloader(load(config)[split], config, batch_size=batch_size, **more))
