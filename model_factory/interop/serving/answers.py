"""Answers to requests: what is drawn for one, and the events by which its text reaches the client.

The text of a decoder, also of a latent model's, is sent as it grows, in parts that join to the answer. Tokens of a diffusion
model change in any order: each step is sent in a field of its own beside an empty text, and the whole answer comes last.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Protocol

from data_manager.tokenizers.base import REPLACEMENT
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.chat import Chat
from model_factory.evaluation.sampling.discrete import read_prompt, resolve_sample_length
from model_factory.evaluation.sampling.draw import draw, encode_start
from model_factory.evaluation.sampling.given import has_given, has_holes, has_responses, read_given
from model_factory.evaluation.sampling.latent import TASK as LATENTS
from model_factory.evaluation.sampling.latent import cut_prompt, positions_left
from model_factory.evaluation.sampling.prompt import count_kept, split_at_holes
from model_factory.evaluation.sampling.sample import Partial, Request, Sample
from model_factory.evaluation.sampling.targets import TASK as TARGETS
from model_factory.interop.serving.bodies import ApiError, Body, ChatBody, CompletionBody
from model_factory.training.noise import mix_seed

DENOISERS = ("diffusion", TARGETS)
DECODERS = ("language_modelling", "translation", LATENTS)
"""Tasks whose texts are written token by token; those of latents are decoded from what a diffusion drew."""
STEPPED = (*DENOISERS, LATENTS)
"""Tasks that draw in sampling steps."""
_UNSETTLED = 3
"""Number of last texts of a decoder that must agree on a part before it is sent: the next tokens may still change it."""


@dataclass(frozen=True)
class Part:
    """Part of choice `index`: text to append, the state of a denoising step, and at its end the reason for it."""

    index: int
    text: str = ""
    diffusion: dict[str, Any] | None = None
    finish_reason: str | None = None
    num_tokens: int = 0
    """At the end: number of tokens of the whole text."""


class Receiver(Protocol):
    """Receiver of an answer's parts: a job of the worker."""

    def check(self) -> None:
        """Raise an error that ends the draw if nobody waits for the answer."""

    def send(self, event: Any) -> None:
        """Take a part."""


class Deltas:
    """Parts of a text that grows token by token; those that were sent do not change any more."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.sent = ""
        self._stops = stops
        self._recent: deque[str] = deque(maxlen=_UNSETTLED)

    def push(self, text: str) -> str:
        """Take the text so far; return the part of it to send, without what may be the beginning of a stop."""
        self._recent.append(text)
        if len(self._recent) < _UNSETTLED or not all(one.startswith(self.sent) for one in self._recent):
            return ""
        rests = (one[len(self.sent) :] for one in self._recent)
        settled = self.sent + reduce(_common_start, rests).rstrip(REPLACEMENT)
        held = max((_overlap(settled, stop) for stop in self._stops), default=0)
        return self.finish(settled[: len(settled) - held])

    def finish(self, text: str) -> str:
        """Return what is left of the whole text."""
        part = text[len(self.sent) :] if text.startswith(self.sent) else ""
        self.sent += part
        return part


def _common_start(text: str, other: str) -> str:
    size = min(len(text), len(other))
    return text[: next((place for place in range(size) if text[place] != other[place]), size)]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class _EnoughError(Exception):
    """Raised in a draw whose texts have all reached a stop."""


@dataclass
class _Stream:
    """Watch of a draw: sends its parts, of the choices from `first` on, and ends it once nobody waits or all have stopped."""

    run: LoadedRun
    body: Body
    receiver: Receiver
    read: Callable[[str], str] = str
    """Returns the answer in a text that was drawn."""
    head: str = ""
    """Text before every answer."""
    first: int = 0
    step: int = 0
    stopped: list[str] = field(default_factory=list)
    """Answers so far, each before its stop."""
    deltas: dict[int, Deltas] = field(default_factory=dict)

    @property
    def is_growing(self) -> bool:
        """Return True if tokens are drawn from left to right, and stay."""
        generation = self.run.generation
        return self.run.task_name in DECODERS and generation.num_beams == 1 and generation.exactly is None

    @property
    def is_shown(self) -> bool:
        """Return True if the client sees what is drawn; the texts of rejection sampling may be dropped."""
        is_denoised = self.run.task_name in DENOISERS and self.run.generation.exactly is None
        return bool(self.body.stream) and (self.is_growing or is_denoised)

    def __call__(self, read: Callable[[], list[Partial]]) -> None:
        self.receiver.check()
        self.step += 1
        if self.is_growing and (self.is_shown or self.body.stops):
            self._grow([self.read(one.text) for one in read()])
        elif self.is_shown:
            for index, one in enumerate(read(), self.first):
                state = {"step": self.step, "text": one.text, "masked": one.masked}
                self.receiver.send(Part(index, diffusion=state))

    def _grow(self, texts: list[str]) -> None:
        self.stopped = [cut_at_stop(text, self.body.stops) for text in texts]
        for index, text in enumerate(self.stopped, self.first) if self.is_shown else ():
            if part := self._deltas(index).push(self.head + text):
                self.receiver.send(Part(index, part))
        if self.body.stops and all(len(cut) < len(text) for cut, text in zip(self.stopped, texts, strict=True)):
            raise _EnoughError

    def end(self, index: int, text: str, reason: str, tail: str = "") -> None:
        """Send what is left of a choice with this answer."""
        kept = cut_at_stop(text, self.body.stops)
        rest = self._deltas(index).finish(self.head + kept + tail)
        size = len(self.run.require_tokenizer().encode(kept)) if kept else 0
        self.receiver.send(Part(index, rest, None, "stop" if len(kept) < len(text) else reason, size))

    def _deltas(self, index: int) -> Deltas:
        return self.deltas.setdefault(index, Deltas(self.body.stops))


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first of the stops."""
    return text[: min([len(text), *(place for stop in stops if (place := text.find(stop)) >= 0)])]


@dataclass(frozen=True)
class Completion:
    """Answer to POST /v1/completions: that of `generate.py` with the seed, without the prompt and the suffix."""

    run: LoadedRun
    body: CompletionBody
    seed: int

    def __call__(self, receiver: Receiver) -> None:
        """Draw the answer and send its parts; raises ApiError, and the errors of `draw`, for what does not fit the run."""
        body, is_whole = self.body, self._has_holes
        prompt = self._prompt_with_suffix() or None
        run = with_settings(self.run, body, prompt, body.n or 1)
        request = Request((prompt,) if prompt else (), self.seed, sample_length(run, body, prompt), body.condition)
        echoes = bool(body.echo) and not is_whole
        head, tail = (body.prompt, body.suffix or "") if echoes else ("", "")
        stream = _Stream(run, body, receiver, self._between, head)
        try:
            samples = draw(run, replace(request, watch=stream)).samples
        except _EnoughError:
            for index, text in enumerate(stream.stopped):
                stream.end(index, text, "stop", tail)
            return
        for index, drawn in enumerate(samples):
            sample = cut_prompt(run, drawn) if run.task_name == LATENTS else drawn
            text, reason = shorten(run, body, sample, prompt)
            if is_whole and text != sample.text:
                parts = split_at_holes(body.prompt)
                text = parts[0] + text + parts[-1]
            elif text == sample.text:
                text = self._answer(run, sample, request)
            stream.end(index, text, reason, tail)

    @property
    def _knows_holes(self) -> bool:
        return has_holes(self.run) or (self.run.task_name == "diffusion" and not has_responses(self.run))

    @property
    def _has_holes(self) -> bool:
        """Return True for a prompt with holes, which is answered by the whole text."""
        return self._knows_holes and len(split_at_holes(self.body.prompt)) > 1

    def _prompt_with_suffix(self) -> str:
        """Return the prompt with a hole before the suffix; raises ApiError for a suffix that does not fit."""
        prompt, suffix = self.body.prompt, self.body.suffix
        if self._has_holes and self.body.stops:
            raise ApiError(400, "a prompt with holes is answered by its whole text; leave stop out", param="stop")
        if not suffix:
            return prompt
        if not self._knows_holes:
            raise ApiError(400, "this model continues texts and does not fill holes; leave suffix out", param="suffix")
        if any(len(split_at_holes(text)) > 1 for text in (prompt, suffix)):
            message = "suffix makes a hole after the prompt, and there are others; leave them out, or the suffix"
            raise ApiError(400, message, param="suffix")
        return f"{prompt}[[{'*' if has_holes(self.run) else ''}]]{suffix}"

    def _answer(self, run: LoadedRun, sample: Sample, request: Request) -> str:
        """Return the drawn part of a sample, or all of it where the prompt has holes."""
        text = self._between(sample.text)
        if text != sample.text or not request.prompts or self._has_holes or not self._knows_holes:
            return text
        # the tokenizer changed the texts around the hole
        template = read_prompt(run, request.prompts[0], resolve_sample_length(run, request))
        assert template is not None
        drawn = [token for token, is_kept in zip(sample.tokens, template.kept, strict=False) if not is_kept]
        return run.require_tokenizer().decode(drawn)

    def _between(self, text: str) -> str:
        """Return the text between prompt and suffix; the spaces at their inner ends may have been drawn."""
        if self._has_holes or not self._knows_holes:
            return text
        before = next((one for one in (self.body.prompt, self.body.prompt.rstrip()) if text.startswith(one)), None)
        suffix = self.body.suffix or ""
        after = next((one for one in (suffix, suffix.lstrip()) if text.endswith(one)), None)
        if before is None or after is None or len(before) + len(after) > len(text):
            return text
        return text[len(before) : len(text) - len(after)]


@dataclass(frozen=True)
class ChatAnswer:
    """Answer to POST /v1/chat/completions: that of `generate.py --chat` with the seed after the same turns."""

    run: LoadedRun
    body: ChatBody
    seed: int

    def __call__(self, receiver: Receiver) -> None:
        """Draw the answer and send its parts; raises ApiError, and the errors of `Chat`, for what does not fit the run."""
        body = self.body
        messages = [message.model_dump() for message in body.messages]
        if messages[-1]["role"] != "user":
            raise ApiError(400, "the last message must be the user's, which is answered", param="messages")
        Chat(self.run, Request())  # raises an error for a run that was not trained on messages
        run = with_settings(self.run, body, messages, 1)
        request = Request((), self.seed, sample_length(run, body, messages), body.condition)
        turns = sum(message["role"] == "user" for message in messages[:-1])
        for index in range(body.n or 1):
            stream = _Stream(run, body, receiver, first=index)
            seed = mix_seed(self.seed, index) if index else self.seed
            chat = Chat(run, replace(request, seed=seed, watch=stream), messages[:-1], turns)
            try:
                found = chat.answer(messages[-1]["content"])
                stream.end(index, *shorten(run, body, found, messages))
            except _EnoughError:
                stream.end(index, stream.stopped[0], "stop")


def with_settings(run: LoadedRun, body: Body, given: Any, n: int) -> LoadedRun:
    """Return the run with the settings of a request in its section `generation`; `given` is a prompt or messages.

    Raises ApiError for one that this model does not take, and for more tokens than it has positions for.
    """
    settings: dict[str, Any] = {"num_samples": n}
    settings |= {name: value for name in ("temperature", "top_p") if (value := getattr(body, name)) is not None}
    limit = body.token_limit
    if body.steps is not None:
        if run.task_name not in STEPPED:
            raise ApiError(400, "steps is for diffusion models; leave it out", param="steps")
        settings["steps"] = body.steps
    if limit is not None and run.task_name in DECODERS:
        settings["max_new_tokens"] = limit
        left = _positions_left(run, given)
        if left is not None and limit > left:
            message = f"max_tokens is {limit:,}, and the prompt leaves {max(left, 0):,} positions of the model; shorten either"
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
    generation = run.generation.model_copy(update=settings)
    return replace(run, config=run.config.model_copy(update={"generation": generation}))


def _positions_left(run: LoadedRun, given: Any) -> int | None:
    """Return the number of tokens that a decoder's positions leave after a prompt; None for a model without a limit."""
    if run.task_name == LATENTS:
        return positions_left(run, given)
    longest = getattr(getattr(run.model, "params", None), "max_length", None)
    if run.task_name != "language_modelling" or longest is None:
        return None
    return int(longest) - len(encode_start(run, given)[0].ids)


def sample_length(run: LoadedRun, body: Body, given: Any) -> int | None:
    """Return the length of a diffusion model's sample that draws `max_tokens` tokens; None for the run's own length.

    A canvas that is filled up with end tokens has its own length, and the answer on it is cut.
    """
    limit = body.token_limit
    if run.task_name != "diffusion" or limit is None or _has_canvas(run):
        return None
    if has_given(run):
        found = read_given(run, given)
        assert found is not None
        return len(found.ids) + limit
    if given is None:
        return limit
    tokenizer, is_whole = run.require_tokenizer(), getattr(run.dataset_config, "layout", None) == "whole"
    return count_kept(given, tokenizer) + is_whole + limit


def _has_canvas(run: LoadedRun) -> bool:
    """Return True if responses are drawn on a canvas of fixed length, on which they end themselves."""
    is_filled = getattr(run.dataset_config, "is_filled", False)
    return run.task_name == TARGETS or (run.task_name == "diffusion" and has_given(run) and is_filled)


def shorten(run: LoadedRun, body: Body, sample: Sample, given: Any) -> tuple[str, str]:
    """Return the text of a sample, cut to `max_tokens` where its canvas is longer, and the reason for its end."""
    limit = body.token_limit
    if run.task_name in DECODERS:
        new, left = run.generation.max_new_tokens, _positions_left(run, given)
        return sample.text, "length" if len(sample.tokens) >= (new if left is None else min(new, left)) else "stop"
    if limit is not None and _has_canvas(run) and len(sample.tokens) > limit:
        return run.require_tokenizer().decode(sample.tokens[:limit]), "length"
    return sample.text, "stop"
