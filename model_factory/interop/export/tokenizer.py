"""Tokenizers of runs as fast tokenizers of transformers, with the same ids."""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.bpe import BpeTokenizer
from data_manager.tokenizers.hugging_face import CachedTokenizer, HuggingFaceTokenizer
from data_manager.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from data_manager.tokenizers.smiles import TOKEN, SmilesTokenizer

PAD, BOS, EOS, UNK, MASK = "<pad>", "<bos>", "<eos>", "<unk>", "<mask>"


class TokenizerExportError(ValueError):
    """A tokenizer that transformers cannot express; the message gives the reason."""


def convert_tokenizer(tokenizer: Tokenizer, mask_token: int | None = None) -> Any:
    """Return the fast tokenizer of transformers with the same ids.

    Special tokens are never read from a text, as in ours. `mask_token` is the id of a denoiser's mask, which becomes
    the mask token if it is in the vocabulary or the first id after it. Raises TokenizerExportError for a kind without such a form,
    and if trial texts get other ids.
    """
    from transformers import PreTrainedTokenizerFast

    if isinstance(tokenizer, CachedTokenizer):
        tokenizer = tokenizer.loaded
    if isinstance(tokenizer, HuggingFaceTokenizer):
        found = deepcopy(tokenizer.inner)  # a mask is added to it
    else:
        names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
        if tokenizer.unk_token_id is not None:
            names["unk_token"] = UNK
        found = PreTrainedTokenizerFast(
            tokenizer_object=_backend(tokenizer), clean_up_tokenization_spaces=False, split_special_tokens=True, **names
        )
    if mask_token is not None and mask_token == tokenizer.vocab_size == len(found):
        name = next(name for name in (MASK, "<|mask|>", "<|denoiser_mask|>") if name not in found.get_vocab())
        found.add_special_tokens({"mask_token": name})
    elif mask_token is not None and mask_token < len(found) and found.mask_token_id != mask_token:
        found.mask_token = found.convert_ids_to_tokens(mask_token)
    _compare(tokenizer, found)
    return found


def save_tokenizer(tokenizer: Tokenizer, folder: Path, mask_token: int | None = None) -> None:
    """Write the files of `save_pretrained`; raise TokenizerExportError as `convert_tokenizer` does."""
    convert_tokenizer(tokenizer, mask_token).save_pretrained(str(folder))


def _backend(tokenizer: Tokenizer) -> Any:
    """Return the tokenizer of the package tokenizers, with its special tokens."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    if isinstance(tokenizer, BpeTokenizer):
        return Backend.from_str(tokenizer.inner.to_str())
    if isinstance(tokenizer, ByteTokenizer):
        bytes_by_id = {letter: byte for byte, letter in enumerate(_byte_letters())}
        backend = Backend(models.BPE(vocab=bytes_by_id, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        specials = [PAD, BOS, EOS]
    elif isinstance(tokenizer, CharacterTokenizer):
        backend = _words(tokenizer.characters, Regex(r"[\s\S]"))
        specials = [PAD, BOS, EOS, UNK]
    elif isinstance(tokenizer, SmilesTokenizer) and not getattr(tokenizer, "pairs", None):
        known = "|".join(re.escape(token) for token in sorted(tokenizer.tokens, key=len, reverse=True))
        # An unknown atom in brackets is encoded character by character.
        backend = _words(tokenizer.tokens, Regex(_one_line(TOKEN.pattern)), Regex(rf"\A(?:{known})\z|[\s\S]"))
        specials = [PAD, BOS, EOS, UNK]
    else:
        raise TokenizerExportError(f"the tokenizer {type(tokenizer).__name__} has no form in transformers")
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return backend


def _words(tokens: list[str], *patterns: Any) -> Any:
    """Return a backend whose tokens, from id 4, are whole matches of the patterns, applied one after the other."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    names = [PAD, BOS, EOS, UNK, *tokens]
    backend = Backend(models.WordLevel(vocab={name: index for index, name in enumerate(names)}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(part, "isolated") for part in patterns])
    backend.decoder = decoders.Fuse()
    return backend


def _one_line(pattern: str) -> str:
    """Return a verbose regular expression without its white space and comments, with an alternative for other text."""
    lines = [line.split(" #")[0].replace(" ", "") for line in pattern.splitlines()]
    return "".join(lines) + r"|[\s\S]"


def _byte_letters() -> list[str]:
    """Return the letter that byte-level tokenizers write each byte with."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _compare(tokenizer: Tokenizer, found: Any) -> None:
    """Raise TokenizerExportError unless trial texts and special tokens have the same ids in both."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ours, theirs = getattr(tokenizer, name), getattr(found, name)
        if ours != theirs:
            raise TokenizerExportError(f"its {name} would be {theirs} instead of {ours}")
    for text in _trial_texts(tokenizer):
        ours, theirs = tokenizer.encode(text), found.encode(text, add_special_tokens=False)
        if list(ours) != list(theirs):
            raise TokenizerExportError(f"the text {text[:40]!r} would have the ids {theirs[:8]} instead of {ours[:8]}")
        back = tokenizer.unk_token_id not in ours and found.decode(theirs, skip_special_tokens=True)
        if back is not False and back != tokenizer.decode(ours):
            raise TokenizerExportError(f"the text {text[:40]!r} would be decoded to {back[:40]!r}")


def _trial_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts of all the tokens, of special tokens' names, and of letters that a tokenizer may not know."""
    yield from (
        "The  quick\tbrown fox,\n\n 12.5% <eos> of it!",
        "  CC(=O)Nc1ccc(Br)cc1[nH]%12 ",
        "naïve 東京 \U0001f600 [13ClH]",
    )
    count = min(tokenizer.vocab_size, 5000)
    pieces = [tokenizer.decode([index]) for index in range(count)]
    yield "".join(pieces)
    yield "".join(reversed(pieces))
