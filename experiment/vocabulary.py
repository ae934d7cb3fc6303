"""`vocab_size` where the file leaves it out: from the tokenizer of its first data set that has one."""

from experiment.config import ExperimentConfig
from model.model_types import ModelConfig
from model.types import PerformerParams


def with_vocabulary(config: ExperimentConfig) -> ExperimentConfig:
    """A copy whose model has the vocabulary of the data set's tokenizer in every part that reads tokens.

    A size that the file gives is kept, if the tokenizer's ids fit into it; raises ValueError if they do not, DataError
    where the corpus that the tokenizer is made from cannot be read. The same config comes back where the file has no
    model, no data set or no tokenizer.
    """
    if config.model is None or not config.datasets:
        return config
    parts: tuple[str, ...] = getattr(type(config.model.config), "parts", ())
    fields = {name: value for name, value in dict(config.model.config).items() if isinstance(value, PerformerParams)}
    if not parts or not fields:
        return config
    from data_manager.data_manager import DatasetManager

    tokenizer = next(filter(None, map(DatasetManager.tokenizer, config.datasets)), None)
    if tokenizer is None:
        return config
    sized = {name: _sized(params, name, tokenizer.vocab_size) for name, params in fields.items()}
    model = config.model.config.model_copy(update=sized)
    return config.model_copy(update={"model": config.model.model_copy(update={"config": model})})


def _sized(params: PerformerParams, name: str, size: int) -> PerformerParams:
    if params.vocab_size is None:
        return params.model_copy(update={"vocab_size": size})
    if params.vocab_size < size:
        where = name.removesuffix("_params")
        raise ValueError(f"{where}.vocab_size is {params.vocab_size}, and the data set's tokenizer has {size} tokens")
    return params


def vocab_size_of(model: ModelConfig) -> int | None:
    """Vocabulary of the part that predicts tokens, None where none does."""
    sizes = [value.vocab_size for value in dict(model.config).values() if isinstance(value, PerformerParams)]
    return sizes[-1] if sizes else None
