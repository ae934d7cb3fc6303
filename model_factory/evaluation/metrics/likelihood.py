"""Likelihood of texts: from NLL of rows in nats to bits per token, bits per character and perplexity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_manager.dataset_types import DatasetConfig
from data_manager.row_types import TokensConfig
from data_manager.rows.source import SourceSize
from data_manager.tokenizers.base import Tokenizer
from model_factory.evaluation.figure import Figure
from model_factory.evaluation.metrics.intervals import Interval, Values, bootstrap_ratio
from model_factory.training.tasks.base import counted_tokens, real_tokens

_MASKS = {"input": "attention_mask"}


@dataclass
class TextNLL:
    """NLL of each row in nats, and the numbers of tokens, characters and bytes that it covers.

    `sizes` are the (characters, bytes) of each row in the text of the data, empty for rows of ids without a text. `cut`
    counts the characters behind truncated rows, `unknown` the unknown tokens.
    """

    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    cut: float = 0.0
    unknown: int = 0
    has_prompts: bool = False
    """True if only the responses in rows count."""
    inner: int = 0
    """Number of rows in which text follows a response, for a model that reads all of a row at once."""

    def add(
        self,
        nats: Tensor,
        batch: Mapping[str, Any],
        tokenizer: Tokenizer | None,
        *,
        side: str = "input",
        with_first: bool = False,
    ) -> None:
        """Add the nats [B] of the ids of one side of a batch: of all tokens, or of all but the first.

        Of rows with responses they are of the tokens of responses.
        """
        ids, is_real = batch[f"{side}_ids"], real_tokens(batch, f"{side}_ids", _MASKS.get(side, f"{side}_mask"))
        if side == "input":
            self.has_prompts |= "response_mask" in batch
            is_real = counted_tokens(batch)
        first = 0 if with_first else 1
        self.nats += nats.double().tolist()
        self.tokens += is_real[:, first:].sum(1).tolist()
        unknown = None if tokenizer is None else tokenizer.unk_token_id
        if unknown is not None and unknown != tokenizer.eos_token_id:  # type: ignore[union-attr]
            self.unknown += int(((ids == unknown) & is_real)[:, first:].sum())
        if (found := batch.get(f"{side}_size")) is not None:
            size = SourceSize(*found.T)
            characters = size.characters - size.first_characters * first
            self.sizes += zip(characters.tolist(), (size.bytes - size.first_bytes * first).tolist(), strict=True)
            self.cut += float(size.cut_characters.sum())

    def figures(self, seed: int, *, note: str = "", item: str | None = None) -> list[Figure]:
        """Return bits_per_token = sum nats / (ln 2 sum tokens), perplexity = exp(nats per token), and bits of the text.

        With `item`, the name of what a row holds (row, pair), also nats_per_ITEM = sum nats / rows: it compares layouts
        and models, whatever tokens they count.

        bits_per_character and bits_per_byte (of UTF-8) divide the same bits by the text that the tokens cover, as the data
        have it: the end token costs bits but has no text.
        """
        bits, tokens = np.array(self.nats) / math.log(2), np.array(self.tokens, dtype=np.float64)
        found = [ratio_figure("bits_per_token", bits, tokens, seed, unit="bits", note=note)]
        if item is not None:
            ones = np.ones(len(bits))
            found.append(ratio_figure(f"nats_per_{item}", self.nats, ones, seed, unit="nats", note=note))
        for name, sizes in zip(("bits_per_character", "bits_per_byte"), zip(*self.sizes, strict=True), strict=False):
            if sum(sizes):
                found.append(ratio_figure(name, bits, sizes, seed, unit="bits", note=self._describe_text(note)))
        first = found[0]
        ends = Interval(_power(first.low), _power(first.high), first.method)
        found.append(Figure("perplexity", _power(first.value), *ends[:2], first.n, "rows", seed, ends.method, "", note))
        return found

    def last(self, count: int) -> dict[str, list[float]]:
        """Return the bits and the tokens of the last `count` rows, by name."""
        return {"bits": [nats / math.log(2) for nats in self.nats[-count:]], "tokens": list(self.tokens[-count:])}

    def notes(self) -> list[str]:
        """Return notes on text that the figures per character and per byte do not cover, or cover cheaply."""
        found = []
        if not self.sizes:
            found.append("bits_per_character is left out: the data set gives token ids without their text")
        if self.unknown:
            found.append(
                f"{self.unknown:,} of {sum(self.tokens):,} tokens are unknown: their text counts as characters and "
                "bytes, and costs only the bits of the unknown token"
            )
        if self.inner:
            found.append(
                f"in {self.inner:,} of {len(self.nats):,} rows text follows a response, whose length is given thereby"
            )
        if self.cut:
            found.append(
                f"rows were truncated (too_long: cut): {self.cut:,.0f} characters after their ends have no bits"
            )
        return found

    def _describe_text(self, note: str) -> str:
        """Say beside a figure per character that the text was cut or is not known to the tokenizer."""
        parts = [note, f"{self.unknown:,} unknown tokens" if self.unknown else ""]
        parts.append(f"without {self.cut:,.0f} cut characters" if self.cut else "")
        return ", ".join(filter(None, parts))


def item_of(entry: DatasetConfig) -> str | None:
    """Return what a row of a data set holds, for `TextNLL.figures`; None for rows that are cut from texts."""
    if not isinstance(entry, TokensConfig) or entry.layout != "whole":
        return None
    return "pair" if entry.is_paired else "row"


def ratio_figure(
    name: str,
    numerators: Values | Sequence[float],
    denominators: Values | Sequence[float],
    seed: int,
    *,
    of: str = "rows",
    unit: str = "",
    note: str = "",
) -> Figure:
    """Compute sum(numerators) / sum(denominators) over independent items, with its bootstrap interval."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    interval = bootstrap_ratio(top, bottom, seed=seed, what=of)
    value = float(top.sum() / bottom.sum()) if bottom.sum() else float("nan")
    return Figure(name, value, interval.low, interval.high, len(top), of, seed, interval.method, unit, note)


def row_nll(logits: Tensor, targets: Tensor, is_real: Tensor) -> Tensor:
    """Compute the NLL in nats [B] of targets [B, N] under logits [B, N, V], summed where bool `is_real` [B, N] is True."""
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return torch.where(is_real, losses, 0.0).double().sum(1)


def _power(bits: float) -> float:
    try:
        return float(2.0**bits)
    except OverflowError:
        return float("inf")
