"""A Hugging Face tokenizer from a folder or the hub, with the special tokens that batches need."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.errors import DataError
from data_manager.tokenizer_base import flat, write_vocabulary

if TYPE_CHECKING:
    from data_manager.tokenizer_base import Flat

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)


class HuggingFaceTokenizer:
    """Wraps a `transformers` tokenizer.

    Where one has no token for beginning or end, `cls` and `sep` serve, else `<bos>` and `<eos>` are added; padding
    falls back on the end token, as the mask tells the two apart.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer
        self.bos_token_id = _special(tokenizer, "bos", tokenizer.cls_token, "<bos>")
        self.eos_token_id = _special(tokenizer, "eos", tokenizer.sep_token, "<eos>")
        self.pad_token_id = _special(tokenizer, "pad", tokenizer.eos_token, "<pad>")
        self.unk_token_id: int | None = tokenizer.unk_token_id
        self.vocab_size = len(tokenizer)
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            # a tokenizer.json may ask for either
            self._fast.no_truncation()
            self._fast.no_padding()

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "HuggingFaceTokenizer":
        """Read tokenizer.json, vocab.json with merges.txt, vocab.txt or a SentencePiece model; raises DataError."""
        path = Path(folder)
        if not path.is_dir():
            kind = "is a file; give the folder that it is in" if path.exists() else "is not there"
            raise DataError(f"tokenizer folder {path} {kind}")
        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            raise DataError(f"tokenizer folder {path} has none of {', '.join(TOKENIZER_FILES)}")
        try:
            return cls(_read(path))
        except DataError:
            raise
        except Exception as error:  # transformers raises whatever a broken file leads to
            raise DataError(f"tokenizer folder {path} cannot be read: {type(error).__name__}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens around them, however long the text."""
        ids: list[int] = self.inner.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Ids of several texts, on all cores unless TOKENIZERS_PARALLELISM is false."""
        if self._fast is None:
            return flat([self.encode(text) for text in texts])
        return flat([found.ids for found in self._fast.encode_batch_fast(texts, add_special_tokens=False)])

    def decode(self, ids: Iterable[int]) -> str:
        """The text without special tokens; ids beyond the vocabulary are left out."""
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size]
        text: str = self.inner.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def identity(self) -> str:
        """Changes whenever ids do."""
        content = self._fast.to_str() if self._fast is not None else repr(sorted(self.inner.get_vocab().items()))
        specials = self.pad_token_id, self.bos_token_id, self.eos_token_id
        return f"hugging_face {sha256(content.encode()).hexdigest()} {specials}"

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the tokenizer's own files, and `vocabulary.json` beside them."""
        self.inner.save_pretrained(str(folder))
        write_vocabulary(folder, {"type": "hugging_face"})


def _read(path: Path) -> Any:
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

    if (path / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    if (path / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
    if (path / "vocab.json").is_file():
        if not (path / "merges.txt").is_file():
            raise DataError(f"tokenizer folder {path} has vocab.json and lacks the merges.txt that belongs to it")
        return GPT2TokenizerFast.from_pretrained(str(path), local_files_only=True)
    return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)


def _special(tokenizer: Any, role: str, substitute: str | None, new: str) -> int:
    """The id of a special token, which is set to `substitute` or added as `new` where the tokenizer has none."""
    if getattr(tokenizer, f"{role}_token") is None:
        tokenizer.add_special_tokens({f"{role}_token": substitute or new})
    found: int = getattr(tokenizer, f"{role}_token_id")
    return found
