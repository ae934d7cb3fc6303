"""Texts of lm-evaluation-harness as tokens of a run: contexts, answers, and continuations until a stop text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from data_manager.rows.collate import pad_rows
from model_factory.diffusion.randomness import ROW_WIDTH, RowGenerators
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.discrete import draw_tokens
from model_factory.evaluation.sampling.given import has_given, read_given
from model_factory.evaluation.sampling.prompt import Template
from model_factory.evaluation.sampling.sample import decode_sample, decoding_options
from model_factory.interop.token_scores import Pair, text_key
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.schema_version import parse_json

_SIZES = ("max_gen_toks", "max_new_tokens", "max_tokens")
_CHOICES = ("temperature", "top_p", "top_k", "num_beams")


@dataclass(frozen=True)
class Start:
    """Tokens that begin texts: `text` in front of each text, `empty` in front of an answer without context."""

    text: tuple[int, ...]
    empty: tuple[int, ...]

    @classmethod
    def of(cls, run: LoadedRun, add_bos_token: bool | None, prefix_token_id: int | None) -> "Start":
        """Return those that the rows of a run begin with, unless they are given.

        Whole documents begin with the begin token. In other rows a document follows the end token of the one before, so that a
        decoder predicts its first token from that; a denoiser needs no token before.
        """
        tokenizer, config = run.require_tokenizer(), run.dataset_config
        bos, eos = (tokenizer.bos_token_id,), (tokenizer.eos_token_id,)
        is_whole, is_decoder = getattr(config, "layout", None) == "whole", run.task_name == "language_modelling"
        is_isolated = is_decoder and getattr(config, "document_ids", False)
        text = bos if is_whole else eos if is_isolated else ()
        if add_bos_token is not None:
            text = bos if add_bos_token else ()
        empty = bos if is_whole else text or (eos if is_decoder else ())
        return cls(text, empty if prefix_token_id is None else (prefix_token_id,))


class Texts:
    """Encoding of the texts of the harness for a run; `counts` holds what happened to them, by its description."""

    def __init__(self, run: LoadedRun, start: Start) -> None:
        self.run, self.start, self.tokenizer = run, start, run.require_tokenizer()
        self.has_given, self.counts = has_given(run), Counter[str]()

    def context(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a context; of a run on rows with responses, those in front of the response to it.

        Raises PromptError for a context that such a run cannot read.
        """
        if self.has_given:
            given = read_given(self.run, _messages(text))
            assert given is not None
            return tuple(given.ids)
        return (*self.start.text, *self.tokenizer.encode(text)) if text else self.start.empty

    def pair(self, context: str, answer: str) -> Pair:
        """Return the tokens of a context and of an answer, tokenised together, as the harness itself does.

        Spaces at the end of a context are moved to the answer. A run on rows with responses gets the answer as a response,
        without the space that separates it.
        """
        if self.has_given:
            return Pair(self.context(context), tuple(self.tokenizer.encode(answer.removeprefix(" "))))
        spaces = len(context) - len(context.rstrip())
        context, answer = context[: len(context) - spaces], context[len(context) - spaces :] + answer
        before, whole = self.context(context), self.context(context + answer)
        if not context:
            whole = (*before, *self.tokenizer.encode(answer))
        if whole[: len(before)] != before:
            self.counts["requests whose context has other tokens with its answer than alone"] += 1
        if len(whole) <= len(before):
            self.counts["answers without a token, of log-likelihood 0"] += 1
        return Pair(before, whole[len(before) :])

    def whole(self, text: str) -> Pair:
        """Return the tokens of a text after the token that begins texts; raise UnfitError for a run on responses."""
        if self.has_given:
            raise UnfitError(
                f"{self.run.folder} knows responses to prompts, and the task asks for the likelihood of whole texts; use a "
                "task with contexts"
            )
        return Pair(self.start.empty, tuple(self.tokenizer.encode(text)))


def _messages(text: str) -> Any:
    """Return the messages of a context that the harness made of a conversation, other texts as they are."""
    if not text.startswith('[{"'):
        return text
    try:
        found = parse_json(text)
    except ValueError:
        return text
    return found if isinstance(found, list) else text


def canvas_of(run: LoadedRun) -> int:
    """Return the number of tokens of the rows of a run that fills them with end tokens, 0 for other runs."""
    config: Any = run.dataset_config
    return (config.limit or 0) if getattr(config, "is_filled", False) else 0


@dataclass(frozen=True)
class Job:
    """A text to continue: its tokens, the number of new ones, stop texts, how tokens are chosen, and its random key."""

    context: tuple[int, ...]
    new: int
    until: tuple[str, ...]
    choices: tuple[tuple[str, Any], ...]
    key: int


class Continuations:
    """Continuations of contexts by a run, as `generate.py` writes them; greedy unless a task samples."""

    def __init__(self, texts: Texts, max_length: int, batch_size: int, seed: int) -> None:
        self.texts, self.run, self.tokenizer = texts, texts.run, texts.tokenizer
        self.max_length, self.batch_size, self.seed = max_length, batch_size, seed
        self.is_decoder = self.run.task_name == "language_modelling"
        self.canvas = 0 if self.is_decoder else canvas_of(self.run)

    def write(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Return the continuation of each (context, generation arguments), up to the first stop text.

        Raises UnfitError for an argument that is not known, PromptError for a context that cannot be read.
        """
        seen = Counter[tuple[Any, ...]]()
        jobs = [self._job(context, options, seen) for context, options in requests]
        found: dict[int, str] = {}
        for numbers in self._batches(jobs):
            chosen = [jobs[number] for number in numbers]
            for number, text in zip(numbers, self._draw(chosen), strict=True):
                cuts = [text.find(stop) for stop in jobs[number].until if stop and stop in text]
                found[number] = text[: min(cuts, default=len(text))]
        return [found[number] for number in range(len(jobs))]

    def _job(self, context: str, options: Mapping[str, Any], seen: "Counter[tuple[Any, ...]]") -> Job:
        given = dict(options)
        until = given.pop("until", None) or []
        new = next((size for name in _SIZES if (size := given.pop(name, None)) is not None), None)
        is_sampled = given.pop("do_sample", None)
        choices = {name: given.pop(name) for name in _CHOICES if name in given}
        if given:
            raise UnfitError(
                f"generation argument {next(iter(given))!r} is not known; there are until, do_sample, "
                f"{', '.join((*_SIZES, *_CHOICES))}"
            )
        temperature = float(choices.get("temperature") or 0.0) or (1.0 if is_sampled else 0.0)
        choices["temperature"] = 0.0 if is_sampled is False else temperature
        ids, size = self.texts.context(context), int(new or self.run.generation.max_new_tokens)
        size = min(size, self.max_length - 1)
        cut = len(ids) + (1 if self.canvas else size) - self.max_length  # a canvas is what the context leaves
        if cut > 0:
            self.texts.counts["contexts cut on the left"] += 1
            ids = ids[cut:]
        kept = tuple(sorted(choices.items()))
        seen[context, kept] += 1  # a task may ask for several samples of one context
        key = text_key(self.seed, Pair(ids, ()), seen[context, kept] if choices["temperature"] else 1)
        return Job(ids, size, (until,) if isinstance(until, str) else tuple(until), kept, key)

    def _batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return the numbers of jobs in batches that share their settings, and their length where no row can be padded."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, job in enumerate(jobs):
            length = 0 if self.is_decoder else len(job.context)
            groups.setdefault((job.choices, job.new, length), []).append(number)
        return [
            group[first : first + self.batch_size]
            for group in groups.values()
            for first in range(0, len(group), self.batch_size)
        ]

    def _draw(self, jobs: Sequence[Job]) -> list[str]:
        """Return the texts of jobs with the same settings."""
        settings = {"top_k": None, "top_p": None, "num_beams": 1, **dict(jobs[0].choices)}
        generation = self.run.generation.model_copy(update=settings)
        run = replace(self.run, config=self.run.config.model_copy(update={"generation": generation}))
        keys = torch.tensor([job.key for job in jobs], device=run.device)
        streams = RowGenerators(keys, width=ROW_WIDTH)
        if self.is_decoder:
            rows = self._continue(run, jobs, streams)
        else:
            templates = [self._template(job) for job in jobs]
            lengths = torch.full((len(jobs),), len(templates[0].tokens))
            drawn, _ = draw_tokens(run, lengths, None, templates, streams)
            rows = [row[len(job.context) :][: job.new] for job, row in zip(jobs, drawn, strict=True)]
        return [decode_sample(row, None, self.tokenizer).text for row in rows]

    def _continue(self, run: LoadedRun, jobs: Sequence[Job], streams: RowGenerators) -> list[list[int]]:
        contexts = [list(job.context) for job in jobs]
        padded, mask = (tensor.to(run.device) for tensor in pad_rows(contexts, self.tokenizer.pad_token_id))
        tokens = run.model.generate(padded, jobs[0].new, mask=mask, **decoding_options(run, streams))  # type: ignore[operator]
        found: list[list[int]] = tokens[:, padded.shape[1] :].tolist()
        return found

    def _template(self, job: Job) -> Template:
        """Return the row to denoise: the context, and the new tokens, or the rest of a row of a run that fills rows."""
        size = len(job.context)
        new = self.canvas - size if self.canvas else job.new
        return Template([*job.context, *[0] * new], [True] * size + [False] * new)
