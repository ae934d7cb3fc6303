"""Runs as models of lm-evaluation-harness: importing this module registers `model_factory` and `model_factory_diffusion`.

    import model_factory.interop.lm_eval
    lm_eval.simple_evaluate(model="model_factory", model_args={"pretrained": "runs/mine"}, tasks=[...])

The arguments are those of `HarnessSettings`. The results hold, under `config.model_factory`, which likelihood it is, notes, and
for each task the sum of the log-likelihoods with the standard error of its draws; `estimates` holds each answer's. Needs the
extra `eval`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from math import fsum, sqrt
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  (registers the built-in models, which the registry does only while it is empty)
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.given import columns_of, has_responses
from model_factory.interop.harness_settings import FEW, HarnessSettings
from model_factory.interop.harness_texts import Continuations, Start, Texts
from model_factory.interop.token_scores import Pair, Score, windows
from model_factory.training.errors import UnfitError
from model_factory.training.run.atomic_io import write_text

_LOGGER = logging.getLogger("lm_eval.model_factory")
BATCH = 32
_STAMP = "model_factory"
"""Key of a cache of answers under which the identity of its run stands."""


@register_model("model_factory", "model_factory_diffusion")
class ModelFactoryLM(TemplateLM):  # type: ignore[misc]
    """A trained decoder or denoiser; the log-likelihood of an answer depends on no other request, nor on the batch size.

    Raises UnfitError for unknown arguments and for runs of other tasks, and the errors of `open_run`.
    """

    def __init__(
        self,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.settings = HarnessSettings.parse(arguments)
        self.batch_size = _batch_size(batch_size, max_batch_size)
        self.run = open_run(Path(self.settings.pretrained), self.settings.overrides, device=device)
        self.run.model.eval()
        self._device = self.run.device
        self.scorer = self.settings.scorer(self.run, self.batch_size)
        start = Start.of(self.run, self.settings.add_bos_token, self.settings.prefix_token_id)
        self.texts = Texts(self.run, start)
        self.estimates: list[dict[str, Any]] = []
        _LOGGER.info("%s: %s", self.run.folder, self.settings.describe(self.run)["likelihood"])
        self._logged: set[str] = set()

    @property
    def eot_token_id(self) -> int:
        """Return the end token."""
        return self.run.require_tokenizer().eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Return the token in front of an answer without context; a denoiser of packed rows has none, and this is not used."""
        return (*self.texts.start.empty, self.run.require_tokenizer().bos_token_id)[0]

    @property
    def max_length(self) -> int:
        """Return the number of tokens that the model reads at once."""
        return self.settings.length(self.run)

    @property
    def tokenizer_name(self) -> str:
        """Return a name that tells conversations of different runs apart in the harness's cache of requests."""
        return f"model_factory {self.run.folder.resolve()}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text, with those that begin texts unless `add_special_tokens` is False."""
        start = () if add_special_tokens is False else self.texts.start.text
        return [*start, *self.run.require_tokenizer().encode(string)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the messages as JSON, which a run on messages encodes as in training; raise UnfitError for other runs."""
        if not has_responses(self.run) or columns_of(self.run).messages is None:
            raise UnfitError(f"{self.run.folder} was not trained on messages; leave --apply_chat_template out")
        if not add_generation_prompt:
            raise UnfitError(
                "the task begins the answer itself (gen_prefix), and a run on messages writes whole answers"
            )
        return json.dumps([{"role": one["role"], "content": one["content"]} for one in chat_history])

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take the harness's cache of answers; raise UnfitError for one of another run, or with other settings."""
        super().set_cache_hook(cache_hook)
        if cache_hook.dbdict is None:
            return
        identity = self.settings.identity()
        known = cache_hook.dbdict.get(_STAMP)
        if known != identity and len(cache_hook.dbdict):
            raise UnfitError("--use_cache names answers of another run, or with other settings; give another file name")
        cache_hook.dbdict[_STAMP] = identity

    # Requests of the harness.

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-likelihood in nats of each request's (context, answer), and whether the answer is greedy."""
        found = self._score(requests, [self.texts.pair(*request.args) for request in requests])
        return [(score.log_likelihood, score.is_greedy) for score in found]

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Return the same of tokens: each request is ((context, answer), context ids, answer ids)."""
        found = self._score([], [Pair(tuple(context), tuple(answer)) for _, context, answer in requests])
        return [(score.log_likelihood, score.is_greedy) for score in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood in nats of each request's text, in windows where it is longer than the model reads."""
        found = self._score(requests, [self.texts.whole(*request.args) for request in requests])
        return [score.log_likelihood for score in found]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each request's context, with its generation arguments."""
        writer = Continuations(self.texts, self.max_length, self.batch_size, self.settings.seed)
        found = writer.write([request.args for request in requests])
        self._warn()
        return found

    def _score(self, requests: Sequence[Any], pairs: Sequence[Pair]) -> list[Score]:
        """Score pairs window by window, record them as answers of `requests`, if given, and log notes."""
        parts = [windows(pair, self.scorer.limit) if pair.answer else [] for pair in pairs]
        scores = iter(self.scorer.score([window for part in parts for window in part]))
        found = [Score.join([next(scores) for _ in part]) for part in parts]
        self.texts.counts["contexts cut on the left"] += sum(any(window.cut for window in part) for part in parts)
        self.texts.counts["answers cut into windows"] += sum(len(part) > 1 for part in parts)
        for request, part, score, pair in zip(requests, parts, found, pairs, strict=bool(requests)):
            self._record(request, pair, len(part), sum(window.cut for window in part), score)
        if self.settings.log is not None:
            lines = [json.dumps(one, ensure_ascii=False) for one in self.estimates]
            Path(self.settings.log).parent.mkdir(parents=True, exist_ok=True)
            write_text(Path(self.settings.log), "".join(f"{line}\n" for line in lines))
        self._warn()
        return found

    def _record(self, request: Any, pair: Pair, count: int, cut: int, score: Score) -> None:
        """Keep the log-likelihood of a request with its standard error."""
        self.estimates.append(
            {
                "task": request.task_name,
                "doc_id": request.doc_id,
                "request": request.idx,
                "type": request.request_type,
                "log_likelihood": score.log_likelihood,
                "standard_error": score.standard_error,
                "is_greedy": score.is_greedy,
                "tokens": len(pair.answer),
                "windows": count,
                "cut_tokens": cut,
            }
        )

    def _warn(self) -> None:
        """Log the notes that are new."""
        for note in self.notes():
            if note not in self._logged:
                _LOGGER.warning(note)
                self._logged.add(note)

    def notes(self) -> list[str]:
        """Return notes on the answers so far: what was cut, and draws that are too few."""
        found = [*self.run.notes, *(f"{what}: {count:,}" for what, count in self.texts.counts.items() if count)]
        draws = self.settings.describe(self.run).get("draws", FEW)
        if draws < FEW:
            found.append(f"{draws} draws are few: with fewer than {FEW}, the standard errors are themselves uncertain")
        return found

    def get_model_info(self) -> dict[str, Any]:
        """Return what the results say about the model, under `config`."""
        described = self.settings.describe(self.run)
        tasks: dict[str, list[Mapping[str, Any]]] = {}
        for one in self.estimates:
            tasks.setdefault(one["task"], []).append(one)
        info = {
            "run": str(self.run.folder),
            "task": self.run.task_name,
            **described,
            "max_length": self.max_length,
            "notes": self.notes(),
            "tasks": {name: _sum_up(estimates) for name, estimates in tasks.items()},
        }
        return {"model_factory": info}


def _sum_up(estimates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of log-likelihoods and its standard error, None where one is not known."""
    errors = [one["standard_error"] for one in estimates]
    error = None if None in errors else sqrt(fsum(error**2 for error in errors))
    total = fsum(one["log_likelihood"] for one in estimates)
    return {"requests": len(estimates), "log_likelihood": total, "standard_error": error}


def _batch_size(given: int | str | None, largest: int | None) -> int:
    """Return the number of rows of a network call; `auto` is a default. Raise UnfitError for what is no number."""
    text = str(given or BATCH)
    if text.startswith("auto"):
        return min(BATCH, largest or BATCH)
    if not text.isdecimal() or int(text) < 1:
        raise UnfitError(f"batch_size={given!r}: it takes a number of at least 1, or auto")
    return int(text)
