"""Log-likelihoods of answers given contexts, as token ids: pairs, their windows, and scores by a decoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import fsum, sqrt
from typing import Protocol

import torch

from data_manager.progress import progress_bar
from data_manager.rows.collate import pad_rows
from model_factory.evaluation.run import LoadedRun
from model_factory.training.tasks.language_modelling import next_token_logits


@dataclass(frozen=True)
class Pair:
    """Tokens of a context, and of the answer whose log-likelihood is wanted.

    `cut` is the number of tokens of the context that did not fit.
    """

    context: tuple[int, ...]
    answer: tuple[int, ...]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.context) + len(self.answer)


@dataclass(frozen=True)
class Score:
    """Log-likelihood of an answer in nats; for a bound, at most that of the model's distribution.

    `standard_error` is that of the draws: 0 where nothing is drawn, None for a single draw. `is_greedy` is True if the answer
    is what the model finds likeliest.
    """

    log_likelihood: float
    is_greedy: bool
    standard_error: float | None = 0.0

    @classmethod
    def join(cls, parts: Sequence["Score"]) -> "Score":
        """Return the score of an answer from those of its windows, whose draws are independent."""
        errors = [part.standard_error for part in parts]
        known = [error for error in errors if error is not None]
        return cls(
            fsum(part.log_likelihood for part in parts),
            all(part.is_greedy for part in parts),
            sqrt(fsum(error**2 for error in known)) if len(known) == len(errors) else None,
        )


class Scorer(Protocol):
    """Way to score pairs; `limit` is the largest number of tokens of a pair that it takes."""

    limit: int

    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Return the score of each pair; it depends on no other pair, nor on their order."""
        ...


def text_key(seed: int, pair: Pair, *words: int) -> int:
    """Return a signed 64-bit key of the random draws of a pair: a function of its tokens, the seed and `words` alone."""
    text = repr((seed, words, pair.context, pair.answer))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)


def windows(pair: Pair, limit: int) -> list[Pair]:
    """Return pairs of at most `limit` tokens whose scores add up to that of a pair.

    An answer that fits gets the end of its context. A longer one is cut: the first window has one token of the context, each
    later one the token before it, and the last one all tokens before it that fit.
    """
    room = limit - min(1, len(pair.context))
    first, done = pair.answer[:room], min(room, len(pair.answer))
    kept = min(len(pair.context), limit - len(first))
    found = [Pair(pair.context[len(pair.context) - kept :], first, len(pair.context) - kept)]
    while done < len(pair.answer):
        answer = pair.answer[done : done + limit - 1]
        found.append(Pair(pair.answer[max(0, done - limit + len(answer)) : done], answer))
        done += len(answer)
    return found


class DecoderScorer:
    """Scores by a decoder, exact: the sum of its log-probabilities of the tokens of an answer.

    `max_length` is the largest number of tokens that the decoder reads, so that the last token of a pair is one more.
    """

    def __init__(self, run: LoadedRun, max_length: int, batch_size: int) -> None:
        self.run, self.limit, self.batch_size = run, max_length + 1, batch_size

    def _batches(self, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
        with progress_bar("answers", len(numbers), "answer") as track:
            for first in range(0, len(numbers), self.batch_size):
                yield numbers[first : first + self.batch_size]
                track(self.batch_size)

    @torch.no_grad()
    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Return the score of each pair; contexts must not be empty."""
        scores: dict[int, Score] = {}
        order = sorted(range(len(pairs)), key=lambda number: -len(pairs[number]))
        for chosen in self._batches(order):
            rows = [[*pairs[number].context, *pairs[number].answer] for number in chosen]
            ids, mask = (tensor.to(self.run.device) for tensor in pad_rows(rows, 0))
            batch = {"input_ids": ids} if bool(mask.all()) else {"input_ids": ids, "attention_mask": mask}
            logits = next_token_logits(self.run.model, batch)
            for number, row, target in zip(chosen, logits, ids, strict=True):
                places = slice(len(pairs[number].context) - 1, len(pairs[number]) - 1)
                log_probs = torch.log_softmax(row[places].double(), -1)
                answer = target[1:][places]
                nats = log_probs.gather(1, answer[:, None]).sum()
                scores[number] = Score(float(nats), bool((log_probs.argmax(-1) == answer).all()))
        return [scores[number] for number in range(len(pairs))]
