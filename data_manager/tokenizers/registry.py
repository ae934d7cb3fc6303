"""Registry of tokenizer kinds: a name for `tokenizer: {type: ...}`, the type of its keys, and its class.

A custom kind is one file, found when it is imported (`--plugin MODULE`) or through the entry point group
`model_factory.tokenizers`:

    class WordsConfig(StrictModel):
        lowercase: bool = False

    @register_tokenizer("words", config=WordsConfig)
    class WordTokenizer:                                  # has the methods of `tokenizers.base.Tokenizer`
        @classmethod
        def from_texts(cls, settings, texts): ...         # learn the vocabulary from the training split
        @classmethod
        def load(cls, folder): ...                        # read the files that `save` wrote

A data set may then have `tokenizer: {type: words, lowercase: true}`. `save` calls
`write_vocabulary(folder, {"type": "words", ...})`, so that a run's folder names the kind.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from model_factory.yaml_config.from_registry import section_type
from model_factory.yaml_config.registry import Registry
from model_factory.yaml_config.strict_model import StrictModel

Kind = TypeVar("Kind", bound=type)


class TokenizerEntry(NamedTuple):
    """Kind of tokenizer: the type of its keys, `type` among them, and its class."""

    config_type: type[StrictModel]
    tokenizer: Any

    @property
    def learns_from_text(self) -> bool:
        """True if the vocabulary is learned from the training split, which a stream cannot provide."""
        return getattr(self.tokenizer, "from_texts", None) is not None


TOKENIZERS: Registry[TokenizerEntry] = Registry("tokenizer type", "model_factory.tokenizers")
DEFAULT_TOKENIZER = "characters"
for _name, _module in (
    ("characters", "data_manager.tokenizers.simple"),
    ("bytes", "data_manager.tokenizers.simple"),
    ("hugging_face", "data_manager.tokenizers.hugging_face"),
    ("bpe", "data_manager.tokenizers.bpe"),
    ("smiles", "data_manager.tokenizers.smiles"),
    ("run", "data_manager.tokenizers.from_run"),
):
    TOKENIZERS.add_lazy(_name, _module)


def register_tokenizer(name: str, *, config: type[StrictModel]) -> Callable[[Kind], Kind]:
    """Register the decorated class as the tokenizer of `type: name`, whose other keys are the fields of `config`.

    Arguments:
        name: value of `type` in a file.
        config: type of the keys; the field `type` is added if it has none.

    The class implements `data_manager.tokenizers.base.Tokenizer`, the classmethod `load(folder)`, and one of these:
        `from_texts(settings, texts)`: learn from an iterator of the texts of the training split, read once. The result
            is saved in output_dir, and reused while settings, texts and the class attribute `version` are unchanged.
        `from_settings(settings, dataset)`: build it without texts; `dataset` is the `DatasetConfig`, by which
            `data_manager.paths.find_path` resolves a path. Such a kind also works for streams.

    Import heavy libraries inside the methods, so that checking a file stays fast. Raises ValueError if the name is taken
    or the class lacks a method.
    """

    def entry(tokenizer: Kind) -> TokenizerEntry:
        makers = [getattr(tokenizer, method, None) for method in ("from_texts", "from_settings")]
        if makers.count(None) != 1 or not hasattr(tokenizer, "load"):
            raise ValueError(
                f"tokenizer type {name!r}: {tokenizer.__name__} needs the classmethod load(folder), and either "
                "from_texts(settings, texts) or from_settings(settings, dataset)"
            )
        return TokenizerEntry(section_type(name, config, StrictModel), tokenizer)

    return TOKENIZERS.decorator(name, entry)
