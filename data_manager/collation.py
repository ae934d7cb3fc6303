"""Rows to batches: padded tensors with masks, bool and True at real tokens or frames. All can be pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]


def pad_rows(rows: Sequence[Any], fill: int) -> tuple[Tensor, Tensor]:
    """Ids [B, L] int64 and mask [B, L] of rows of ids, padded behind with `fill` to the longest row L."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    padded = torch.full((len(rows), longest), fill, dtype=torch.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.as_tensor(row)
    return padded, torch.arange(longest) < lengths[:, None]


@dataclass(frozen=True)
class TextCollator:
    """Rows with `input_ids` to `{"input_ids": [B, L] int64, "attention_mask": [B, L]}`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `rows`."""
        ids, mask = pad_rows([row["input_ids"] for row in rows], self.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class PairCollator:
    """Rows with `source_ids` and `target_ids` to both as [B, N] and [B, M] int64, with `source_mask`, `target_mask`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `rows`."""
        batch: Batch = {}
        for side in ("source", "target"):
            ids, mask = pad_rows([row[f"{side}_ids"] for row in rows], self.pad_token_id)
            batch |= {f"{side}_ids": ids, f"{side}_mask": mask}
        return batch
