"""Fill in the sizes that a model's section leaves out from its data sets: `vocab_size` and the sequence length."""

from typing import Protocol, runtime_checkable

from experiment.config import ExperimentConfig
from yaml_config.strict_model import StrictModel


@runtime_checkable
class Sized(Protocol):
    """Model section that can take sizes from a data set."""

    def sized(self, vocab_size: int | None, length: int | None) -> StrictModel:
        """Return a copy with missing sizes filled in; raises ValueError if a given size is too small."""


def with_vocabulary(config: ExperimentConfig) -> ExperimentConfig:
    """Return a copy whose model has the vocabulary of its data sets' tokenizer, and their sequence length.

    Sizes that the file gives are kept. Returns the same config if the file has no model or no data set, or the model type
    takes no sizes. Raises ValueError if a given size is smaller than the tokenizer's, DataError if the corpus of the
    tokenizer cannot be read.
    """
    if config.model is None or not config.datasets or not isinstance(config.model.config, Sized):
        return config
    from data_manager.data_manager import DatasetManager

    tokenizer = next(filter(None, map(DatasetManager.tokenizer, config.datasets)), None)
    length = next(filter(None, (getattr(entry, "sequence_length", None) for entry in config.datasets)), None)
    sized = config.model.config.sized(tokenizer.vocab_size if tokenizer else None, length)
    return config.model_copy(update={"model": config.model.model_copy(update={"config": sized})})
