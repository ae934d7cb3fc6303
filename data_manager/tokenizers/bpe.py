"""Byte-level BPE tokenizer, learned from a corpus; lossless for any text."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.dataset_types import TokenizerConfig
from data_manager.documents import pieces
from data_manager.errors import DataError
from data_manager.tokenizers.base import flat, write_vocabulary
from data_manager.tokenizers.registry import register_tokenizer

if TYPE_CHECKING:
    from data_manager.tokenizers.base import Flat, FlatWithEnds

FILE = "tokenizer.json"
_TRAINING_CHARACTERS = 1 << 12
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


@register_tokenizer("bpe", config=TokenizerConfig)
class BpeTokenizer:
    """Byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2), special tokens pad 0, bos 1, eos 2, unk 3.

    All 256 bytes are tokens, so no text is unknown. A text never encodes to special tokens.
    """

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2
    unk_token_id: int | None = 3

    def __init__(self, inner: Any) -> None:
        """Wrap `inner`, a `tokenizers.Tokenizer` whose first four tokens are the special ones."""
        inner.no_truncation()
        inner.no_padding()
        self.inner = inner
        self.vocab_size: int = inner.get_vocab_size()

    @classmethod
    def learn(cls, texts: Iterator[str], vocab_size: int) -> "BpeTokenizer":
        """Learn a tokenizer of at most `vocab_size` tokens; the texts are read once and not kept in memory."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        # tokenizers keeps 256 texts at a time, and several copies of each
        inner.train_from_iterator(
            (part for text in texts for part in pieces(iter([text]), _TRAINING_CHARACTERS)), trainer
        )
        return cls(inner)

    @classmethod
    def from_texts(cls, settings: TokenizerConfig, texts: Iterator[str]) -> "BpeTokenizer":
        """Learn the merges from the training split."""
        assert settings.vocab_size is not None
        return cls.learn(texts, settings.vocab_size)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "BpeTokenizer":
        """Load the tokenizer that `save` wrote; raise DataError."""
        from tokenizers import Tokenizer

        path = Path(folder) / FILE
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises a bare Exception
            raise DataError(f"{path} is not a valid tokenizer file: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens around them."""
        self.inner.encode_special_tokens = True  # "<eos>" in a text is five characters; a pickled tokenizer loses it
        ids: list[int] = self.inner.encode(text, add_special_tokens=False).ids
        return ids

    def encode_many(self, texts: Sequence[str]) -> "Flat":
        """Encode several texts, on all cores unless TOKENIZERS_PARALLELISM is false."""
        self.inner.encode_special_tokens = True
        return flat([found.ids for found in self.inner.encode_batch_fast(texts, add_special_tokens=False)])

    def encode_with_ends(self, texts: Sequence[str]) -> "FlatWithEnds":
        """Encode several texts; each character of a byte-level token is one byte."""
        import numpy as np

        ids, lengths = self.encode_many(texts)
        sizes = np.array([len(self.inner.id_to_token(index)) for index in range(self.vocab_size)])
        return ids, lengths, np.cumsum(sizes[ids])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text; skip special tokens and ids beyond the vocabulary."""
        text: str = self.inner.decode([i for i in map(int, ids) if 4 <= i < self.vocab_size])
        return text

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `tokenizer.json` and `vocabulary.json`."""
        write_vocabulary(folder, {"type": "bpe"})
        text = self.inner.to_str(pretty=True)  # its own `save` raises no OSError on a full disk
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    def identity(self) -> str:
        """Return a hash of the merges."""
        return f"bpe {sha256(self.inner.to_str().encode()).hexdigest()}"
