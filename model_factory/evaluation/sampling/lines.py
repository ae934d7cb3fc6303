"""One text for each line of an input: its translation, continuation, or the text with its holes filled in.

Each line has its own random stream, seeded by its number, so a line's text does not depend on the other lines of its batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from data_manager.rows.collate import pad_rows
from model.discrete.model import DiffusionModel
from model_factory.diffusion.randomness import RowGenerators
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.discrete import (
    draw_tokens,
    parse_condition,
    read_prompt,
    read_sample,
    resolve_sample_length,
)
from model_factory.evaluation.sampling.draw import check_request, draw, encode_start, sampler_for, translate
from model_factory.evaluation.sampling.prompt import PromptError
from model_factory.evaluation.sampling.sample import Request, decode_sample, decoding_options
from model_factory.evaluation.sampling.targets import TASK as TARGETS
from model_factory.evaluation.sampling.targets import draw_targets, encode_source
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed

_STREAM = 67


@dataclass(frozen=True)
class Prepared:
    """Input of one line, ready for a batch: its number from 1, its size, and what the model takes.

    A batch holds lines of one `group`, of similar `size`.
    """

    number: int
    size: int
    content: Any
    group: int = 0


class LineSampler(Protocol):
    """Sampler of a text for each line of an input."""

    def prepare(self, number: int, value: Any) -> Prepared:
        """Encode the value of line `number`; raises a ValueError that says why it does not fit."""

    def generate(self, lines: Sequence[Prepared]) -> list[Any]:
        """Return the text of each line of a batch, or the ValueError of a line that has none."""


def make_batches(lines: Sequence[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Yield batches of at most `size` lines of one group, the shortest first."""
    batch: list[Prepared] = []
    for line in sorted(lines, key=lambda line: (-line.group, line.size)):
        if batch and (len(batch) == size or batch[0].group != line.group):
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def text_sampler(run: LoadedRun, request: Request) -> LineSampler:
    """Return the sampler of a run for lines of text; raises UnfitError for a run that cannot generate."""
    sampler_for(run)
    check_request(run, request)
    if run.generation.exactly is None:
        if run.task_name == "translation":
            return _Translations(run, request)
        if run.task_name == TARGETS:
            return _Targets(run, request)
        if run.task_name == "language_modelling":
            return _Continuations(run, request)
        if run.task_name == "diffusion" and isinstance(run.model, DiffusionModel):
            return _Infillings(run, request)
    return _SingleLines(run, request)


def _streams(run: LoadedRun, request: Request, lines: Sequence[Prepared]) -> RowGenerators:
    """Create the random stream of each line, a function of the seed and its number."""
    numbers = torch.tensor([line.number for line in lines], device=run.device)
    return RowGenerators.from_seed(mix_seed(request.seed, _STREAM), numbers)


@dataclass
class _Translations:
    """Translations by an encoder-decoder."""

    run: LoadedRun
    request: Request

    def prepare(self, number: int, value: str) -> Prepared:
        tokenizer = self.run.require_tokenizer()
        ids = [tokenizer.bos_token_id, *tokenizer.encode(value), tokenizer.eos_token_id]
        longest = getattr(self.run.model.encoder.params, "max_length", None)  # type: ignore[union-attr]
        if longest is not None and len(ids) > longest:
            raise PromptError(
                f"the line takes {len(ids)} tokens, and the encoder's max_length is {longest}; shorten it"
            )
        return Prepared(number, len(ids), ids)

    def generate(self, lines: Sequence[Prepared]) -> list[str]:
        streams = _streams(self.run, self.request, lines)
        rows = translate(self.run, [line.content for line in lines], streams)
        return [decode_sample(row, None, self.run.require_tokenizer()).text for row in rows]


@dataclass
class _Targets:
    """Targets that a diffusion model of pairs writes for sources."""

    run: LoadedRun
    request: Request

    def prepare(self, number: int, value: str) -> Prepared:
        ids = encode_source(self.run, value)
        return Prepared(number, len(ids), ids)

    def generate(self, lines: Sequence[Prepared]) -> list[str]:
        streams = _streams(self.run, self.request, lines)
        return [found.text for found in draw_targets(self.run, [line.content for line in lines], streams)]


@dataclass
class _Continuations:
    """Continuations by a decoder, without the line itself."""

    run: LoadedRun
    request: Request

    def prepare(self, number: int, value: Any) -> Prepared:
        given, spaces = encode_start(self.run, value)
        ids = given.ids
        longest, new = getattr(self.run.model.params, "max_length", None), self.run.generation.max_new_tokens
        if longest is not None and len(ids) >= longest:
            raise PromptError(
                f"the line takes {len(ids)} tokens, and with max_length {longest} at most {longest - 1} can be continued; "
                "shorten it"
            )
        return Prepared(number, len(ids), (given, spaces), new if longest is None else min(new, longest - len(ids)))

    def generate(self, lines: Sequence[Prepared]) -> list[str]:
        tokenizer = self.run.require_tokenizer()
        padded, mask = (
            tensor.to(self.run.device)
            for tensor in pad_rows([line.content[0].ids for line in lines], tokenizer.pad_token_id)
        )
        options = decoding_options(self.run, _streams(self.run, self.request, lines))
        tokens = self.run.model.generate(padded, lines[0].group, mask=mask, **options)  # type: ignore[operator]
        new = [row[padded.shape[1] :] for row in tokens.tolist()]
        return [
            line.content[0].around(decode_sample(row, None, tokenizer, behind=line.content[1]).text)
            for row, line in zip(new, lines, strict=True)
        ]


@dataclass
class _Infillings:
    """Texts of a discrete diffusion model: the line with its holes filled in, up to the length of a sample."""

    run: LoadedRun
    request: Request
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = resolve_sample_length(self.run, self.request)
        parse_condition(self.run, self.request, 1)

    def prepare(self, number: int, value: Any) -> Prepared:
        return Prepared(number, self.length, read_prompt(self.run, value, self.length))

    def generate(self, lines: Sequence[Prepared]) -> list[str]:
        count = len(lines)
        lengths, cond = torch.full((count,), self.length), parse_condition(self.run, self.request, count)
        templates = [line.content for line in lines]
        rows, _ = draw_tokens(self.run, lengths, cond, templates, _streams(self.run, self.request, lines))
        drawn = zip(rows, templates, strict=True)
        return [read_sample(self.run, row, None, None, template).text for row, template in drawn]


@dataclass
class _SingleLines:
    """Texts of any other model, drawn line by line."""

    run: LoadedRun
    request: Request

    def __post_init__(self) -> None:
        generation = self.run.generation.model_copy(update={"num_samples": 1})
        self.run = replace(self.run, config=self.run.config.model_copy(update={"generation": generation}))

    def prepare(self, number: int, value: Any) -> Prepared:
        if not isinstance(value, str):
            raise PromptError("generation.exactly redraws texts that are prompted by a line; leave it out for a table")
        return Prepared(number, len(value), value)

    def generate(self, lines: Sequence[Prepared]) -> list[Any]:
        found: list[str | UnfitError] = []
        for line in lines:
            request = replace(self.request, prompts=(line.content,), seed=mix_seed(self.request.seed, line.number))
            try:
                found.append(draw(self.run, request).samples[0].text)
            except UnfitError as error:
                found.append(error)
        return found
