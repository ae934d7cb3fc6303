"""Collators: padded batches with bool masks, True at real tokens or frames. All collators can be pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_manager.row_types import RESPONSES
from data_manager.rows.pack import COND, LABELS
from data_manager.rows.pack import STARTS as DOCUMENT_STARTS
from data_manager.rows.source import source_batch

Batch = dict[str, Any]


def pad_rows(rows: Sequence[Any], fill: int) -> tuple[Tensor, Tensor]:
    """Right-pad rows of ids with `fill` to the longest row L; return ids [B, L] int64 and mask [B, L]."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    if bool((lengths == longest).all()):
        same = torch.from_numpy(np.stack([np.asarray(row) for row in rows])).to(torch.int64)
        return same, torch.ones_like(same, dtype=torch.bool)
    padded = torch.full((len(rows), longest), fill, dtype=torch.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.as_tensor(row)
    return padded, torch.arange(longest) < lengths[:, None]


@dataclass(frozen=True)
class TextCollator:
    """Collator of rows with `input_ids` into `{"input_ids": [B, L] int64, "attention_mask": [B, L]}`.

    Optional for packed rows: `document_ids` [B, L] int64 (1, 2, ... for the documents of a row, 0 at padding) and
    `position_ids` [B, L] int64 (0, 1, ... from the beginning of each document, or of the row if a document continues from
    the row before; 0 at padding). Tokens may attend to each other if their document_ids are equal. Rows with a class also
    yield `labels` [B] int64, rows with properties `cond` [B, size] float32, rows with responses `response_mask` [B, L], True
    at the tokens that are learnt, rows with source columns those of `data_manager.rows.source.source_batch`.

    `fill` is the length L of every batch, whatever its rows, and the end token: it fills the places after a row's end as
    real tokens, which belong to the response. A row whose last token is of no response is padded.
    """

    pad_token_id: int
    document_ids: bool = False
    position_ids: bool = False
    fill: tuple[int, int] | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate `rows` into a batch."""
        ids, mask = pad_rows([row["input_ids"] for row in rows], self.pad_token_id)
        batch: Batch = {"input_ids": ids, "attention_mask": mask, **source_batch(rows)}
        if RESPONSES in rows[0]:
            batch[RESPONSES] = pad_rows([row[RESPONSES] for row in rows], 0)[0].bool()
        if self.fill is not None:
            batch |= self._filled(batch, *self.fill)
        if LABELS in rows[0]:
            batch[LABELS] = torch.tensor([int(row[LABELS]) for row in rows])
        if COND in rows[0]:
            batch[COND] = torch.from_numpy(np.array([row[COND] for row in rows], np.float32))
        if self.document_ids or self.position_ids:
            begins = torch.zeros_like(ids)
            begins[:, 0] = 1
            for index, row in enumerate(rows):
                begins[index, torch.as_tensor(row[DOCUMENT_STARTS], dtype=torch.int64)] = 1
            if self.document_ids:
                batch["document_ids"] = begins.cumsum(1) * mask
            if self.position_ids:
                positions = torch.arange(ids.shape[1]).expand_as(ids)
                batch["position_ids"] = (positions - (positions * begins).cummax(1).values) * mask
        return batch

    def _filled(self, batch: Batch, length: int, end: int) -> Batch:
        """Return ids and masks [B, length] with end tokens after the rows that end with a response, or with a text."""
        more = (0, max(0, length - batch["input_ids"].shape[1]))
        found = {name: batch[name] for name in ("attention_mask", RESPONSES) if name in batch}
        found = {name: nn.functional.pad(value, more, value=False) for name, value in found.items()}
        real = found["attention_mask"]
        last = real.sum(1, keepdim=True) - 1
        is_open = found[RESPONSES].gather(1, last) if RESPONSES in found else torch.ones_like(last, dtype=torch.bool)
        filling = ~real & is_open
        ids = nn.functional.pad(batch["input_ids"], more, value=self.pad_token_id).masked_fill(filling, end)
        return {"input_ids": ids, **{name: value | filling for name, value in found.items()}}


@dataclass(frozen=True)
class PairCollator:
    """Collator of pairs: `source_ids` [B, N] and `target_ids` [B, M] int64, with `source_mask` and `target_mask`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate `rows` into a batch."""
        batch: Batch = source_batch(rows)
        for side in ("source", "target"):
            ids, mask = pad_rows([row[f"{side}_ids"] for row in rows], self.pad_token_id)
            batch |= {f"{side}_ids": ids, f"{side}_mask": mask}
        return batch
