"""Task conditional_diffusion: learn targets given their sources, by a model that noises and counts responses alone.

A target is written on a canvas of a fixed number of tokens: the text, its end, and end tokens up to the last position, all
of which are noised and counted, so that the loss bounds -log p(target | source) with the target's length. The source is
read in one of two ways: as a prefix of the row, or by the model's own encoder, whose `forward` takes `context_ids`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from data_manager.rows.collate import pad_rows
from data_manager.tokenizers.base import Tokenizer
from model_factory.diffusion.randomness import ROW_WIDTH, Randomness, RowGenerators
from model_factory.diffusion.registry import SAMPLERS
from model_factory.experiment.training_types import GenerationConfig
from model_factory.training.errors import UnfitError
from model_factory.training.splits import select_dataset
from model_factory.training.tasks.base import Batch, real_tokens, take_drawn
from model_factory.training.tasks.diffusion import Diffusion


class Joined(NamedTuple):
    """Rows of a source and a canvas: `input_ids` int64 [B, L], and bool [B, L] of all real tokens and of the canvas."""

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor


class Targets(NamedTuple):
    """Targets drawn for sources: their tokens up to the first end token, and the network calls of each, if counted."""

    tokens: list[list[int]]
    calls: list[int | None]


class ConditionalDiffusion(Diffusion):
    """Bound of -log p(target | source) in nats per token of the canvas, and the model's own parts of it."""

    generation: ClassVar[Mapping[str, Any]] = {"temperature": 0.0, "num_samples": 1}  # the likeliest tokens, one text
    rows_shown: ClassVar[int] = 4

    @property
    def canvas(self) -> int:
        """Return the number of tokens of a canvas, the data set's sequence_length; raises UnfitError without one."""
        entry = select_dataset(self.setting.config)
        length: int | None = getattr(entry, "sequence_length", None)
        if length is None:
            raise UnfitError(
                f"a target is written on a canvas of fixed length, and data set {entry.name!r} sets no sequence_length; add it"
            )
        return length

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, whose end token fills the canvas; raises UnfitError without one."""
        if self.setting.tokenizer is None:
            raise UnfitError("the canvas of a target is filled with the tokenizer's end token, and the data have none")
        return self.setting.tokenizer

    def check(self, network: nn.Module) -> None:
        """Raise UnfitError for a network that cannot learn responses, and for data without a canvas or an end token."""
        super().check(network)
        if not reads_context(network) and "response_mask" not in _parameters(network.forward):
            name, signature = type(network).__name__, inspect.signature(network.forward)
            raise UnfitError(
                f"pairs need a model that noises and counts targets alone, and {name}.forward{signature} has no keyword "
                "response_mask; add `response_mask=None`, bool [B, L], to it"
            )
        positions, longest = getattr(getattr(network, "network", None), "max_length", None), 2 * self.canvas
        if not reads_context(network) and positions is not None and positions < longest:
            raise UnfitError(
                f"a row has a source and a canvas of up to {self.canvas} tokens each, and the network has {positions} "
                f"positions; set sequence_length: {positions // 2}"
            )
        _ = self.tokenizer

    def host_draw(self, network: nn.Module) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """Return the joining of pairs and the drawing of their noise, for a model whose loss needs no logits of a batch."""
        draw = super().host_draw(network)
        return None if draw is None else PairDraw(self._pairs(network), draw)

    def prepare(self, network: nn.Module, batch: Batch) -> Batch:
        """Return the batch with the columns that the network reads, made of `source_ids` and `target_ids`."""
        return {**batch, **self._pairs(network)(batch)}

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of tokens of all canvases."""
        ids = batch["target_ids"]
        return torch.tensor(float(len(ids) * self.canvas), device=ids.device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `source_ids` [B, M] and `target_ids` [B, T], and the parts of the bound."""
        drawn = take_drawn(batch) if network.training else None
        return super().__call__(network, self.prepare(network, batch) if drawn is None else {**batch, **drawn["rows"]})

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Return source, reference and translation of each row."""
        if not hasattr(network, "draw") and not hasattr(network, "sample"):
            return []
        kept = (real_tokens(batch, f"{side}_ids", f"{side}_mask") for side in ("source", "target"))
        sources, references = (
            [ids[real].tolist() for ids, real in zip(batch[f"{side}_ids"], mask, strict=True)]
            for side, mask in zip(("source", "target"), kept, strict=True)
        )
        found = self.draw(network, sources, self.setting.generation, generator).tokens
        return ["\n".join(map(self.tokenizer.decode, texts)) for texts in zip(sources, references, found, strict=True)]

    def draw(
        self,
        network: nn.Module,
        sources: Sequence[Sequence[int]],
        settings: GenerationConfig,
        generator: Randomness = None,
        watch: Callable[[Tensor], object] | None = None,
    ) -> Targets:
        """Draw a target for each source, ids with begin and end token, in one batch.

        The target of a source depends neither on the other sources nor on how far they are padded. `watch` is called with
        the canvases [B, N] after each step, for a network with `draw`.
        """
        device = next(network.parameters()).device
        source, mask = (tensor.to(device) for tensor in pad_rows(sources, self.tokenizer.pad_token_id))
        count, size = len(sources), self.canvas
        chosen: dict[str, Any] = {"steps": settings.steps, "sampler": settings.sampler_choice, "top_p": settings.top_p}
        chosen |= {"guidance": settings.guidance, "generator": _padded_streams(generator, count, device)}
        options = {name: value for name, value in chosen.items() if value is not None}
        if settings.temperature != 1.0:
            options["temperature"] = settings.temperature
        if reads_context(network):
            length, where = size, None
            options |= {"context_ids": source, "context_mask": mask}
        else:
            empty = torch.zeros(count, size, dtype=torch.int64, device=device)
            rows = join(source, mask, empty, **self._layout(network, settings.sampler_name))
            length, where = rows.input_ids.shape[1], rows.response_mask
            options |= {"prompt": rows.input_ids, "frozen": ~where, "mask": rows.attention_mask}
        calls: list[int | None] = [None] * count

        def canvases(tokens: Tensor) -> Tensor:
            return tokens if where is None else tokens[where].view(count, size)

        if hasattr(network, "draw"):
            if watch is not None:
                options["watch"] = lambda state: watch(canvases(state.tokens))
            state = network.draw(count, length, **options)  # type: ignore[operator]
            tokens, calls = state.tokens, state.network_calls.tolist()
        else:
            tokens = network.sample(count, length, **options)  # type: ignore[operator]
        written = canvases(tokens).tolist()
        return Targets([_until(row, self.tokenizer.eos_token_id) for row in written], calls)

    def _pairs(self, network: nn.Module) -> "PairRows":
        return PairRows(self.tokenizer, self.canvas, None if reads_context(network) else self._layout(network))

    def _layout(self, network: nn.Module, sampler: str | None = None) -> dict[str, int | None]:
        """Return where a row's canvas begins, `start`, and the smallest length of a row, `least`, for `join`.

        Where tokens are predicted in blocks, all canvases begin at one block. A sampler that shares its steps among the
        blocks of a row gets rows of one length.
        """
        block_size: int | None = getattr(network, "block_size", None)
        if block_size is not None:
            return {"start": -(-self.canvas // block_size) * block_size, "least": None}
        shares = sampler is not None and SAMPLERS.get(sampler).blockwise
        return {"start": None, "least": 2 * self.canvas if shares else None}


@dataclass(frozen=True)
class PairRows:
    """Joining of the pairs of a batch to rows with a canvas of `size` tokens, by `layout`; without one the source is apart."""

    tokenizer: Tokenizer
    size: int
    layout: dict[str, int | None] | None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the columns that a network reads, of `source_ids` int64 [B, M] and `target_ids` int64 [B, T]."""
        target, real = batch["target_ids"], real_tokens(batch, "target_ids", "target_mask")
        canvas = fill_canvas(target, real, self.size, self.tokenizer)
        source, source_mask = batch["source_ids"], real_tokens(batch, "source_ids", "source_mask")
        if self.layout is None:
            return {"input_ids": canvas, "context_ids": source, "context_mask": source_mask}
        return join(source, source_mask, canvas, **self.layout)._asdict()


@dataclass(frozen=True)
class PairDraw:
    """Drawing of the noise of pairs on the CPU, with the `rows` that they are joined to, for `Task.host_draw`."""

    pairs: PairRows
    draw: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the rows of a batch and their noise; raise ValueError for rows that do not fit."""
        rows = self.pairs(batch)
        return {**self.draw({**batch, **rows}), "rows": rows}


def reads_context(network: nn.Module) -> bool:
    """Return True for a model that reads sources by an encoder, False for one that reads them in front of the target."""
    found: bool | None = getattr(network, "has_encoder", None)
    return "context_ids" in _parameters(network.forward) if found is None else found


def fill_canvas(target: Tensor, real: Tensor, size: int, tokenizer: Tokenizer) -> Tensor:
    """Return canvases int64 [B, size]: the targets int64 [B, T] without their begin token, then end tokens.

    `real` is bool [B, T], True at real tokens, which come first. Raises UnfitError for a target that does not fit.
    """
    begins = (target[:, :1] == tokenizer.bos_token_id).long()
    counts = real.sum(1, keepdim=True) - begins
    if int(counts.max()) > size:
        raise UnfitError(f"a target has {int(counts.max())} tokens, and its canvas {size}; increase sequence_length")
    index = torch.arange(size, device=target.device) + begins
    ids = target.gather(1, index.clamp(max=target.shape[1] - 1))
    return ids.masked_fill(index - begins >= counts, tokenizer.eos_token_id)


def join(
    source: Tensor, source_mask: Tensor, canvas: Tensor, *, start: int | None = None, least: int | None = None
) -> Joined:
    """Join sources int64 [B, M] and canvases int64 [B, N] to rows, each canvas right after its source.

    Arguments:
        source_mask: bool [B, M], True at real tokens, which come first.
        start: first position of all canvases, or a multiple of it for longer sources; None: sources begin at position 0.
        least: smallest length of the rows, which padding extends.
    """
    counts, (rows, size) = source_mask.sum(1, keepdim=True), canvas.shape
    longest = int(counts.max())
    begin = counts if start is None else torch.full_like(counts, -(-max(longest, 1) // start) * start)
    length = max(int(begin.max()) + size, least or 0)
    place = torch.arange(length, device=canvas.device).expand(rows, -1)
    response = (place >= begin) & (place < begin + size)
    before = place - begin + counts
    in_source = (before >= 0) & (before < counts)
    ids = torch.where(
        response,
        canvas.gather(1, (place - begin).clamp(0, size - 1)),
        source.gather(1, before.clamp(0, source.shape[1] - 1)),
    )
    real = response | in_source
    return Joined(ids.masked_fill(~real, 0), real, response)


def _padded_streams(generator: Randomness, count: int, device: torch.device) -> RowGenerators:
    """Return a stream for each row whose draws do not depend on the row's padding."""
    streams = generator
    if not isinstance(streams, RowGenerators):
        streams = RowGenerators.from_generator(generator, count, device)  # type: ignore[arg-type]
    return RowGenerators(streams.keys, streams.counter, ROW_WIDTH, streams.device)


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _until(tokens: list[int], end: int) -> list[int]:
    """Return the tokens before the first end token."""
    return tokens[: tokens.index(end)] if end in tokens else tokens
