"""The tokenizer of a data set: one that is there, or one learnt from its text and kept in output_dir."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from data_manager.content_hash import FileHashes
from data_manager.dataset_types import DatasetConfig, TokenizerConfig
from data_manager.documents import Corpus, Joined, Listed, Notes
from data_manager.errors import DataError
from data_manager.prepared_folder import discard, prepared_folder
from data_manager.remembered_tokenizer import remembered_tokenizer
from data_manager.text_files import find_path, full_path
from data_manager.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer, load_tokenizer

Texts = Mapping[str, "Corpus | Iterable[str]"]

_VERSION = 1
"""Changed with what is learnt from a text, so that what was learnt before is not taken for it."""
_made: dict[str, Tokenizer] = {}


def make_tokenizer(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """Make the tokenizer that `config.tokenizer` describes and remember it; `texts` is called only if it is needed.

    What is learnt comes from the split `train`, or from all splits where there is none of that name. Raises DataError.
    """
    settings: TokenizerConfig = config.tokenizer  # type: ignore[attr-defined]
    tokenizer: Tokenizer
    if settings.type == "bytes":
        tokenizer = ByteTokenizer()
    elif settings.type == "hugging_face":
        tokenizer = _hugging_face(config, settings)
    else:
        tokenizer = _learnt(config, settings, _training_corpus(texts()))
    _made[config_key(config)] = tokenizer
    return tokenizer


def tokenizer_of(config: DatasetConfig, texts: Callable[[], Texts]) -> Tokenizer:
    """The tokenizer made for `config` before, or a new one."""
    made = _made.get(config_key(config))
    return made if made is not None else make_tokenizer(config, texts)


def output_folder(config: DatasetConfig) -> Path:
    """Where what is prepared for a data set is kept."""
    return full_path(config.global_config.output_dir) / config.name


def file_hashes(config: DatasetConfig) -> FileHashes:
    """The hashes of files that this data set's folder remembers."""
    return FileHashes(output_folder(config) / ".hashes")


def config_key(config: DatasetConfig) -> str:
    """What a config says, the parts of a mixture too, which are not dumped with it."""
    return "\n".join(part.model_dump_json() for part in (config, *getattr(config, "entries", ())))


def _training_corpus(texts: Texts) -> Corpus:
    chosen = {"train": texts["train"]} if "train" in texts else texts
    corpora = [found if isinstance(found, Corpus) else Listed(found, split) for split, found in chosen.items()]
    return corpora[0] if len(corpora) == 1 else Joined(tuple(corpora))


def _learnt(config: DatasetConfig, settings: TokenizerConfig, corpus: Corpus) -> Tokenizer:
    """The tokenizer that was learnt from this text before, or is learnt now."""
    made: list[Tokenizer] = []

    def make(folder: Path, final: Path) -> list[str]:
        made.append(_learn(settings, corpus, f"{config.name}: tokenizer"))
        made[0].save(folder)
        return []

    text = corpus.inputs(file_hashes(config))
    inputs = {"version": _VERSION, "type": settings.type, "vocab_size": settings.vocab_size, "text": text}
    folder = prepared_folder(output_folder(config), inputs, make, prefix="tokenizer-")
    if made:
        return made[0]
    try:
        return load_tokenizer(folder.path)
    except DataError as error:
        discard(folder, error)
        return load_tokenizer(prepared_folder(output_folder(config), inputs, make, prefix="tokenizer-").path)


def _learn(settings: TokenizerConfig, corpus: Corpus, label: str) -> Tokenizer:
    from data_manager.progress import progress

    texts = progress(_texts(corpus), label)
    if settings.type == "characters":
        return CharacterTokenizer.of(texts)
    if settings.type == "smiles":
        return _learn_smiles(texts, settings.vocab_size)
    from data_manager.bpe_tokenizer import BpeTokenizer

    assert settings.vocab_size is not None
    return BpeTokenizer.learn(iter(texts), settings.vocab_size)


def _learn_smiles(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    if vocab_size is None:
        from data_manager.smiles_tokenizer import SmilesTokenizer

        return SmilesTokenizer.of(texts)
    from data_manager.smiles_pairs import SmilesPairTokenizer

    return SmilesPairTokenizer.learn(texts, vocab_size)


def _texts(corpus: Corpus) -> Iterator[str]:
    for piece in corpus.read(Notes()):
        yield from piece.texts


def _hugging_face(config: DatasetConfig, settings: TokenizerConfig) -> Tokenizer:
    if settings.path is not None:
        folder = find_path(settings.path, config, "the tokenizer folder")
        return remembered_tokenizer(folder, output_folder(config), file_hashes(config))
    from data_manager.hub import hub_tokenizer

    assert settings.name is not None
    return hub_tokenizer(settings.name, settings.revision)
