"""Texts as a latent model's encoder reads them, where a pretrained encoder has a tokenizer of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data_manager.tokenizers import Tokenizer
from model.hub import load_from_hub
from training.errors import UnfitError

_REMEDY = "the folder of a pretrained encoder must hold its tokenizer too, as save_pretrained of one writes it"


class EncoderTexts:
    """Rows of the data set's tokens as ids [B, N] and mask [B, N] of the encoder's own tokenizer."""

    def __init__(self, path: str, tokenizer: Tokenizer, longest: int | None) -> None:
        from transformers import AutoTokenizer

        self.data_tokenizer = tokenizer
        self.own: Any = load_from_hub(AutoTokenizer.from_pretrained, path, "tokenizer", _REMEDY)
        if self.own.pad_token_id is None:
            raise UnfitError(
                f"the tokenizer of encoder {path} has no padding token, so texts of several lengths make no batch; add "
                "one: tokenizer.add_special_tokens({'pad_token': '<PAD>'}), and save it into the folder"
            )
        limits = [limit for limit in (longest, self.own.model_max_length) if limit]
        self.longest = min(limits)

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read rows int [B, N] again, mask bool [B, N] being True at their real tokens."""
        rows = zip(ids.tolist(), mask.sum(1).tolist(), strict=True)
        return self.of_texts([self.data_tokenizer.decode(row[:count]) for row, count in rows], ids.device)

    def of_texts(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids and mask of texts."""
        found = self.own(list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        return found["input_ids"].to(device), found["attention_mask"].bool().to(device)
