"""Documents of packed rows: which tokens belong together, and attention inside each document alone."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class LengthClass(NamedTuple):
    """Documents whose lengths differ by less than a factor of two, padded to the longest."""

    tokens: Tensor
    """Index of each token among all B N, int64 [documents, L]; padding repeats the document's first token."""
    is_real: Tensor
    """Bool [documents, L]."""


class Documents:
    """Documents of rows [B, N]: a document ends where `ids` int [B, N] changes, and at the end of its row.

    Fields:
        begins: bool [B, N], True at the first token of each document.
        numbers: int64 [B, N], 1, 2, ... for the documents of a row.
        positions: int64 [B, N], from 0 in each document.
    """

    def __init__(self, ids: Tensor) -> None:
        self.begins = torch.ones_like(ids, dtype=torch.bool)
        self.begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
        self.numbers = self.begins.cumsum(1)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        self.positions = places - (places * self.begins).cummax(1).values
        # Computed at the first use, for all layers; torch.compile cannot follow a cached_property.
        self._same: Tensor | None = None
        self._classes: list[LengthClass] | None = None

    @property
    def same(self) -> Tensor:
        """Bool [B, N, N], True where query and key are of one document."""
        if self._same is None:
            self._same = self.numbers[:, :, None] == self.numbers[:, None]
        return self._same

    @property
    def length_classes(self) -> list[LengthClass]:
        """All documents of the batch in classes of similar lengths, so that padding at most doubles the tokens."""
        if self._classes is None:
            self._classes = self._find_classes()
        return self._classes

    def _find_classes(self) -> list[LengthClass]:
        starts = self.begins.flatten().nonzero()[:, 0]
        lengths = torch.diff(starts, append=starts.new_tensor([self.begins.numel()]))
        powers = torch.ceil(torch.log2(lengths.double()))
        found = []
        for power in sorted(set(powers.tolist())):
            start, length = starts[powers == power, None], lengths[powers == power, None]
            offsets = torch.arange(int(length.max()), device=starts.device)
            is_real = offsets < length
            found.append(LengthClass(start + offsets * is_real, is_real))
        return found

    def attend_apart(
        self, attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Call an attention core on each document as if it were a row, class by class.

        q, k [B, H, N, D] and v [B, H, N, E]; `key_mask` bool [B, N] is True at real tokens. Returns [B, H, N, E]. No
        state or sum of one document reaches another, whatever the core does.
        """
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]  # [B N, H, D] each
        parts, order = [], []
        for tokens, is_real in self.length_classes:
            mask = is_real if key_mask is None else is_real & key_mask.flatten()[tokens]
            heads = [x[tokens].transpose(1, 2) for x in flat]
            out = attend(*heads, key_mask=mask, causal=causal)  # [documents, H, L, E]
            parts.append(out.transpose(1, 2)[is_real])
            order.append(tokens[is_real])
        back = torch.cat(order).argsort()
        joined = torch.cat(parts)[back]  # [B N, H, E]
        return joined.view(q.shape[0], q.shape[2], *joined.shape[1:]).transpose(1, 2)
