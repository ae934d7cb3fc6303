"""Conversations with a run that was trained on messages: turns of a user, and the answers that the run writes."""

from dataclasses import dataclass, field

import torch

from model.discrete.model import DiffusionModel
from model_factory.diffusion.randomness import RowGenerators
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.discrete import (
    draw_tokens,
    parse_condition,
    read_prompt,
    read_sample,
    resolve_sample_length,
    watch_texts,
)
from model_factory.evaluation.sampling.draw import check_request, encode_start
from model_factory.evaluation.sampling.given import columns_of, has_responses
from model_factory.evaluation.sampling.prompt import PromptError
from model_factory.evaluation.sampling.sample import Request, Sample, decode_sample, decoding_options, watch_tokens
from model_factory.training.errors import UnfitError
from model_factory.training.noise import mix_seed

_STREAM = 79


@dataclass
class Chat:
    """A conversation; `answer` adds a turn of the user and the answer to it.

    Each answer has its own random stream, by the seed and the number of the turn. Raises UnfitError for a run that was not
    trained on messages.
    """

    run: LoadedRun
    request: Request
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0

    def __post_init__(self) -> None:
        is_diffusion = self.run.task_name == "diffusion" and isinstance(self.run.model, DiffusionModel)
        if not (is_diffusion or self.run.task_name == "language_modelling"):
            raise UnfitError(
                f"{self.run.folder} is a run of task {self.run.task_name}; diffusion models and decoders chat"
            )
        if not has_responses(self.run) or columns_of(self.run).messages is None:
            raise UnfitError(
                f"{self.run.folder} was not trained on conversations, so it does not know who speaks; train a run whose data "
                "set has messages, or give it texts by --prompt or --input"
            )
        if self.run.generation.exactly is not None:
            raise UnfitError("generation.exactly redraws samples, and a chat draws each answer once; leave it out")
        check_request(self.run, self.request)
        parse_condition(self.run, self.request, 1)

    def answer(self, text: str) -> Sample:
        """Return the answer to a turn of the user; `request.watch` sees it as it is drawn.

        Raises PromptError, and leaves the conversation as it was, where no position is left for an answer.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        streams = RowGenerators.from_seed(
            mix_seed(self.request.seed, _STREAM), torch.tensor([self.turns + 1], device=self.run.device)
        )
        try:
            found = (self._denoise if self.run.task_name == "diffusion" else self._continue)(messages, streams)
        except PromptError as error:
            known = f"; {len(self.messages):,} messages came before it: /clear forgets them" if self.messages else ""
            raise PromptError(f"{error}{known}") from error
        self.messages = [*messages, {"role": "assistant", "content": found.text}]
        self.turns += 1
        return found

    def clear(self) -> None:
        """Forget the messages."""
        self.messages = []

    def _denoise(self, messages: list[dict[str, str]], streams: RowGenerators) -> Sample:
        run, length = self.run, resolve_sample_length(self.run, self.request)
        template = read_prompt(run, messages, length)
        cond, watch = parse_condition(run, self.request, 1), watch_texts(run, self.request, template)
        rows, calls = draw_tokens(run, torch.tensor([length]), cond, template, streams, watch)
        return read_sample(run, rows[0], None, calls[0], template)

    def _continue(self, messages: list[dict[str, str]], streams: RowGenerators) -> Sample:
        run, model = self.run, self.run.model
        ids = encode_start(run, messages)[0].ids
        longest, new = getattr(model.params, "max_length", None), run.generation.max_new_tokens
        if longest is not None and len(ids) >= longest:
            raise PromptError(
                f"the conversation takes {len(ids):,} tokens, and the model reads {longest:,} with its answer; shorten it"
            )
        options = decoding_options(run, streams)
        options |= watch_tokens(self.request.watch, lambda row: decode_sample(row, None, run.require_tokenizer()).text)
        prompt = torch.tensor([ids], device=run.device)
        new = new if longest is None else min(new, longest - len(ids))
        tokens = model.generate(prompt, new, **options)  # type: ignore[operator]
        return decode_sample(tokens[0, len(ids) :].tolist(), None, run.require_tokenizer())
