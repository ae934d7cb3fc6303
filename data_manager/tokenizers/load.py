"""Load a saved tokenizer by the kind that its `vocabulary.json` names."""

from os import PathLike
from pathlib import Path
from typing import Any

from data_manager.errors import DataError
from data_manager.tokenizers.base import VOCABULARY_FILE, Tokenizer, read_vocabulary
from data_manager.tokenizers.registry import TOKENIZERS
from model_factory.yaml_config.registry import UnknownNameError
from model_factory.yaml_config.schema_version import SchemaVersionError


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """Load the tokenizer that `save` wrote, or a folder of a Hugging Face tokenizer; raise DataError."""
    path = Path(folder) / VOCABULARY_FILE
    if not path.is_file():
        return _load("hugging_face", folder)
    try:
        return _load(read_vocabulary(folder)["type"], folder)
    except DataError:
        raise
    except (SchemaVersionError, UnknownNameError) as error:
        raise DataError(f"{path}: {error}" if isinstance(error, UnknownNameError) else str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a valid tokenizer file: {error}") from error


def _load(kind: Any, folder: str | PathLike[str]) -> Tokenizer:
    found: Tokenizer = TOKENIZERS.get(kind).tokenizer.load(folder)
    return found
