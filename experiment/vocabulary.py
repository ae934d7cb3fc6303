"""What the file leaves out of the model and its data sets know: `vocab_size`, and the length of sequences."""

from typing import Protocol, runtime_checkable

from experiment.config import ExperimentConfig
from yaml_config.strict_model import StrictModel


@runtime_checkable
class Sized(Protocol):
    """A model's section that can take sizes from a data set."""

    def sized(self, vocab_size: int | None, length: int | None) -> StrictModel:
        """A copy with what it leaves out; raises ValueError where what it says is too small."""


def with_vocabulary(config: ExperimentConfig) -> ExperimentConfig:
    """A copy whose model has the vocabulary of its data sets' tokenizer, and their sequence length.

    Sizes that the file gives are kept. Raises ValueError where one is smaller than the tokenizer's, DataError where the
    corpus that the tokenizer is made from cannot be read. The same config comes back where the file has no model or no
    data set, or its model type takes no sizes.
    """
    if config.model is None or not config.datasets or not isinstance(config.model.config, Sized):
        return config
    from data_manager.data_manager import DatasetManager

    tokenizer = next(filter(None, map(DatasetManager.tokenizer, config.datasets)), None)
    length = next(filter(None, (getattr(entry, "sequence_length", None) for entry in config.datasets)), None)
    sized = config.model.config.sized(tokenizer.vocab_size if tokenizer else None, length)
    return config.model_copy(update={"model": config.model.model_copy(update={"config": sized})})
