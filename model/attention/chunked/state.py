"""Sums over earlier keys at the start of a chunk, and the factors between chunks, in log2 units.

S = sum_j phi(k_j) v_j^T and z = sum_j phi(k_j) (Katharopoulos et al. 2020, arXiv 2006.16236) are kept in units of
2^peak, the running maximum of the keys' scales: no key is scaled by a later one, and nothing overflows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention.chunked.inputs import NO_KEY_YET
from model.attention.chunked.plan import Group, Workspace


class Sums(NamedTuple):
    """S [R, m, E], z [R, m] and peak [R], or [R, m] for one of each feature, at the border of a chunk."""

    values: Tensor
    totals: Tensor
    peak: Tensor


class Borders(NamedTuple):
    """`Sums` at the start of each group for the whole batch, [B, H, borders, ...], saved for backward."""

    values: Tensor
    totals: Tensor
    peaks: Tensor

    def save(self, index: int, rows: slice, sums: Sums) -> None:
        """Store the sums of a block of batch rows."""
        for kept, now in zip(self, sums, strict=True):
            target = kept[rows, :, index]
            target.copy_(now.view(target.shape))

    def load(self, index: int, rows: slice) -> Sums:
        """Return the stored sums of a block of batch rows."""
        return Sums(*(kept[rows, :, index].flatten(0, 1) for kept in self))


def zero_sums(rows: int, nb_features: int, width: int, space: Workspace) -> Sums:
    """Return the sums before any key, which are 0."""
    values = space("state", rows, nb_features, width).zero_()
    totals = space("state_totals", rows, nb_features).zero_()
    return Sums(values, totals, torch.full((rows,), NO_KEY_YET, dtype=space.dtype, device=space.device))


def empty_borders(
    like: Tensor, borders: int, nb_features: int, width: int, dtype: torch.dtype, peak_shape: tuple[int, ...] = ()
) -> Borders:
    """Allocate `borders` borders for the batch and heads of `like` [B, H, ...]."""
    batch, heads = like.shape[:2]
    shapes = [(nb_features, width), (nb_features,), peak_shape]
    return Borders(*(like.new_empty((batch, heads, borders, *shape), dtype=dtype) for shape in shapes))


def join_sums(sums: Sums) -> Tensor:
    """Return S [R, m, E] and z [R, m] side by side, [R, m E + m]."""
    return torch.cat([sums.values.flatten(1), sums.totals], 1)


def split_sums(joined: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return views S [R, m, E] and z [R, m] of what `join_sums` joined, for values of `width` E."""
    nb_features = joined.shape[-1] // (width + 1)
    values, totals = joined[:, : nb_features * width], joined[:, nb_features * width :]
    return values.view(-1, nb_features, width), totals


class Decays(NamedTuple):
    """Factors between the scales of keys and the running maximum m_i at each token of a group."""

    within: Tensor
    """w_ij = 2^(c_j - m_i) for j <= i, else 0, inside each chunk [R, G, L, L]."""
    read: Tensor
    """Factor from the units of the chunk's state to those of a row, [R, G, L, 1]."""
    write: Tensor
    """Factor from the scale of a key to the units of the next state, [R, G, L, 1]."""
    carry: Tensor
    """From the units of a state to those of the next one, [R, G, 1, 1]."""
    borders: Tensor
    """Running maximum before each chunk and after the last one, [R, G + 1]."""
    is_empty: Tensor
    """True at rows without a key so far, [R, G, L, 1]."""

    @property
    def peak(self) -> Tensor:
        """Running maximum after the group, [R]."""
        return self.borders[:, -1]


def make_decays(scale: Tensor, peak: Tensor, group: Group, space: Workspace) -> Decays:
    """Compute the factors of a group from the scales of its keys [R, T] and the running maximum before it [R]."""
    rows, (_, chunks, length) = scale.shape[0], group
    running = torch.maximum(scale.cummax(-1).values, peak[:, None])
    c, m = scale.view(rows, chunks, length), running.view(rows, chunks, length)
    borders = torch.cat([peak[:, None], m[..., -1]], 1)
    before, after = borders[:, :-1, None], borders[:, 1:, None]
    within = space("within", rows, chunks, length, length)
    torch.sub(c.unsqueeze(-2), m.unsqueeze(-1), out=within).exp2_().tril_()
    return Decays(
        within,
        (before - m).exp2_().unsqueeze(-1),
        (c - after).exp2_().unsqueeze(-1),
        (before - after).exp2_().unsqueeze(-1),
        borders,
        (m <= NO_KEY_YET).unsqueeze(-1),
    )


def scan_chunks(
    first: Tensor, added: Sequence[Tensor], carry: Sequence[Tensor], into: Sequence[Tensor], last: Tensor
) -> None:
    """Scan over chunks: into[0] = first, into[b + 1] = carry[b] into[b] + added[b]; write the final one into `last`.

    All are [R, ...] of the shape of `first`, except the factors [R, 1, 1]. `first` and `last` may be the same tensor.
    """
    now = into[0].copy_(first)
    for plus, factor, after in zip(added, carry, [*into[1:], last], strict=True):
        now = torch.addcmul(plus, now, factor, out=after)
