"""The tokenizer of a run, `tokenizer: {run: runs/x}`: its model can then be evaluated and fine-tuned on other text.

A run keeps its tokenizer in RUN/tokenizer. A run that is trained with the tokenizer of another one keeps a copy,
and `with_tokenizer_of` makes its data sets use the copy, so that the other run may be moved or trained again.
"""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.errors import DataError
from data_manager.paths import find_path
from data_manager.tokenizers.load import load_tokenizer
from data_manager.tokenizers.registry import register_tokenizer

if TYPE_CHECKING:
    from data_manager.tokenizers.base import Tokenizer

TOKENIZER_FOLDER = "tokenizer"
"""Folder of the tokenizer in a run."""
Config = TypeVar("Config", bound=DatasetConfig)


@register_tokenizer("run", config=TokenizerConfig)
class RunTokenizer:
    """Loader of the tokenizer of a run, which is of any other type."""

    @staticmethod
    def from_settings(settings: TokenizerConfig, dataset: DatasetConfig) -> "Tokenizer":
        """Load the tokenizer of the run; raise DataError."""
        assert settings.run is not None
        return RunTokenizer.load(find_path(settings.run, dataset, "the run of the tokenizer,"))

    @staticmethod
    def load(folder: str | PathLike[str]) -> "Tokenizer":
        """Load the tokenizer of a run's folder; raise DataError."""
        place = Path(folder) / TOKENIZER_FOLDER
        if not place.is_dir():
            raise DataError(f"{folder} has no tokenizer: {place} is not a folder; give the folder of a run on text")
        return load_tokenizer(place)


def with_tokenizer_of(config: Config, folder: Path, *, always: bool = False) -> Config:
    """Return the config of a data set whose tokenizer is that of the run `folder`, if it is of a run, or `always`."""
    kind = getattr(getattr(config, "tokenizer", None), "type", None)
    if not hasattr(config, "tokenizer") or not (always or kind == "run"):
        return config
    return config.model_copy(update={"tokenizer": TokenizerConfig(type="run", run=str(folder.resolve()))})
