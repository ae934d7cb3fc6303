"""Retokenisation for a latent model whose pretrained encoder has a different tokenizer from the data set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.hugging_face import TOKENIZER_FILES, HuggingFaceTokenizer
from model.hub import load_from_hub
from model.latent.checks import max_positions_of
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.paths import expand_home

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceModel
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_REMEDY = "the folder of a pretrained encoder must hold its tokenizer too, as save_pretrained of one writes it"


class EncoderTexts:
    """Converter of rows of the data set's tokens to ids [B, N] and mask [B, N] of the encoder's tokenizer."""

    def __init__(self, path: str, tokenizer: Tokenizer) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.data_tokenizer, self.path = tokenizer, path
        config: PretrainedConfig = load_from_hub(AutoConfig.from_pretrained, path, "pretrained model", _REMEDY)
        if _lacks_tokenizer(path):
            raise UnfitError(f"encoder {path} has no tokenizer beside its weights; {_REMEDY}")
        self.own: PreTrainedTokenizerBase = load_from_hub(AutoTokenizer.from_pretrained, path, "tokenizer", _REMEDY)
        if self.own.pad_token_id is None:
            raise UnfitError(
                f"the tokenizer of encoder {path} has no padding token, so texts of several lengths cannot be batched; add "
                "one: tokenizer.add_special_tokens({'pad_token': '<PAD>'}), and save it into the folder"
            )
        if len(self.own) > config.vocab_size:
            raise UnfitError(
                f"the tokenizer of encoder {path} has {len(self.own)} tokens, and its embeddings {config.vocab_size}; "
                "give it the tokenizer that belongs to it"
            )
        self.longest = max_positions_of(config)

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Retokenise rows int [B, N], whose mask bool [B, N] is True at real tokens, to ids and mask [B, M]."""
        rows = zip(ids.tolist(), mask.sum(1).tolist(), strict=True)
        return self.encode_texts([self.data_tokenizer.decode(row[:count]) for row, count in rows], ids.device)

    def encode_texts(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Encode texts to ids int64 [B, N] and mask bool [B, N]; raise UnfitError if one exceeds the encoder's length."""
        settings = {"padding": True, "split_special_tokens": True, "return_tensors": "pt", "verbose": False}
        found = self.own(list(texts), **settings)  # "[MASK]" in a text is text
        length = found["input_ids"].shape[1]
        if self.longest is not None and length > self.longest:
            raise UnfitError(
                f"a text has {length} tokens of the tokenizer of encoder {self.path}, which reads at most "
                f"{self.longest}; skip longer texts with a smaller sequence_length and too_long: skip"
            )
        return found["input_ids"].to(device), found["attention_mask"].bool().to(device)


def check_decoder_tokenizer(path: str, tokenizer: Tokenizer) -> None:
    """Raise UnfitError unless the data set uses the tokenizer in a pretrained decoder's folder, if it has one."""
    remedy = f"tokenizer: {{type: hugging_face, path: {path}}} fits"
    inner: HuggingFaceModel | None = getattr(getattr(tokenizer, "loaded", tokenizer), "inner", None)
    if inner is None:
        raise UnfitError(f"decoder {path} was trained with its own tokenizer, and the data set has another; {remedy}")
    if not expand_home(path).is_dir() or _lacks_tokenizer(path):
        return
    given = inner.get_vocab()
    own = HuggingFaceTokenizer.load(expand_home(path)).inner.get_vocab()
    if any(given.get(token) != index for token, index in own.items()):
        raise UnfitError(f"decoder {path} gives tokens other ids than the tokenizer of the data set; {remedy}")


def _lacks_tokenizer(path: str) -> bool:
    """Return True if the folder exists and holds no tokenizer."""
    folder = expand_home(path)
    return folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES)
