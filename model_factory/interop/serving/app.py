"""The web application of `model-factory serve`: OpenAI's routes for one run, and a page to watch a text being drawn."""

import asyncio
import json
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from data_manager.errors import DataError
from model.transformer.inputs import InputError
from model_factory.diffusion.errors import DiffusionInputError
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.draw import sampler_for
from model_factory.evaluation.sampling.given import columns_of, has_holes, has_responses
from model_factory.evaluation.sampling.latent import TASK as LATENTS
from model_factory.evaluation.sampling.latent import latent_model
from model_factory.interop.serving.answers import DECODERS, STEPPED, ChatAnswer, Completion, Part
from model_factory.interop.serving.bodies import (
    MAX_SEED,
    MAX_TOKENS,
    SERVER_ERROR,
    ApiError,
    ChatBody,
    CompletionBody,
    read_body,
)
from model_factory.interop.serving.guard import Guard, error_response, json_response, read_limited
from model_factory.interop.serving.page import page_response
from model_factory.interop.serving.worker import BusyError, Job, StoppedError, Worker
from model_factory.training.errors import UnfitError, is_out_of_memory

_RETRY_SECONDS = 5
_WORDS = {"--prompt TEXT": "prompt", "--prompt": "prompt", "--length N": "max_tokens", "--length": "max_tokens"}
_WORDS |= {"--condition": "condition", ": /clear forgets them": ""}
"""Words of messages that name options of the command line, and those for a client."""


@dataclass
class Service:
    """A run that is served by its name, and the worker that runs its model."""

    run: LoadedRun
    name: str
    max_tokens: int = MAX_TOKENS
    worker: Worker = field(default_factory=Worker)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        check_servable(self.run)

    # The routes.

    async def health(self, _: Request) -> Response:
        """Answer GET /health."""
        return json_response(
            {"status": "ok", "running": int(self.worker.running is not None), "waiting": self.worker.waiting}
        )

    async def models(self, _: Request) -> Response:
        """Answer GET /v1/models."""
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Answer GET /v1/models/NAME."""
        self._check_model(request.path_params["name"])
        return json_response(self._model())

    async def completions(self, request: Request) -> Response:
        """Answer POST /v1/completions."""
        body = read_body(CompletionBody, await read_limited(request))
        return await self._answer(request, body, Completion, _TEXT)

    async def chat(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        body = read_body(ChatBody, await read_limited(request))
        return await self._answer(request, body, ChatAnswer, _CHAT)

    # Their parts.

    def _model(self) -> dict[str, Any]:
        takes = {
            "takes_steps": self.run.task_name in STEPPED,
            "holes": has_holes(self.run) or (self.run.task_name == "diffusion" and not has_responses(self.run)),
            "messages": has_responses(self.run) and columns_of(self.run).messages is not None,
        }
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "model-factory", **takes}

    def _check_model(self, name: str) -> None:
        if name != self.name:
            message = f"there is no model {name[:80]!r}; this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def _answer(self, request: Request, body: Any, kind: Callable[..., Any], form: "_Form") -> Response:
        self._check_model(body.model)
        limit = body.token_limit
        if limit is not None and limit > self.max_tokens:
            message = f"max_tokens is {limit:,}, and this server draws at most {self.max_tokens:,} (--max-tokens)"
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
        job = self._submit(kind(self.run, body, seed))
        events = aiter(job)
        leaving = asyncio.create_task(_cancel_when_gone(request, job))
        try:
            first = await anext(events, None)
            if first is None:
                raise ClientDisconnect
            envelope = self._envelope(form, seed)
            if body.stream:
                headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
                stream = self._stream(job, events, first, form, envelope, leaving)
                return StreamingResponse(stream, 200, headers, "text/event-stream")
            parts = [first, *[part async for part in events]]
            leaving.cancel()
            return json_response(envelope | _join(parts, form, self._count_prompt(body)))
        except BaseException as error:
            leaving.cancel()
            job.cancel()
            if isinstance(error, Exception) and not isinstance(error, ApiError | ClientDisconnect):
                raise self._as_api_error(error) from error
            raise

    def _submit(self, work: Callable[[Job], None]) -> Job:
        try:
            return self.worker.submit(work)
        except BusyError:
            message = f"one request runs and {self.worker.max_waiting} wait; try again later"
            headers = {"retry-after": str(_RETRY_SECONDS)}
            raise ApiError(503, message, SERVER_ERROR, code="busy", headers=headers) from None
        except StoppedError as error:
            raise self._as_api_error(error) from None

    def _envelope(self, form: "_Form", seed: int) -> dict[str, Any]:
        found = {"id": f"{form.prefix}-{secrets.token_hex(12)}", "object": form.name, "created": int(time.time())}
        return {**found, "model": self.name, "seed": seed}

    def _count_prompt(self, body: Any) -> int:
        encode = self.run.require_tokenizer().encode
        texts = [message.content for message in body.messages] if isinstance(body, ChatBody) else [body.prompt]
        return sum(len(encode(text)) for text in texts if text)

    async def _stream(
        self,
        job: Job,
        events: AsyncIterator[Part],
        first: Part,
        form: "_Form",
        envelope: dict[str, Any],
        leaving: asyncio.Task[None],
    ) -> AsyncIterator[str]:
        """Yield the server-sent events of an answer; `leaving` ends the job whose client goes away."""
        envelope = envelope | {"object": form.chunk_name}
        try:
            yield _event(envelope | {"choices": [form.chunk(first)]})
            async for part in events:
                yield _event(envelope | {"choices": [form.chunk(part)]})
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield _event(self._as_api_error(error).as_dict())
        finally:
            leaving.cancel()
            job.cancel()

    def _as_api_error(self, error: Exception) -> ApiError:
        """Return the error for a client; an unexpected one is reported on standard error, without its texts."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, UnfitError | InputError | DiffusionInputError | DataError):
            message = str(error).replace(str(self.run.folder), self.name)
            for option, word in _WORDS.items():
                message = message.replace(option, word)
            return ApiError(400, message)
        if isinstance(error, StoppedError):
            return ApiError(503, "the server is ending", SERVER_ERROR, code="stopped")
        if is_out_of_memory(error):
            message = "there is not enough memory for this; ask for fewer tokens or choices"
            return ApiError(503, message, SERVER_ERROR, code="out_of_memory")
        frames = "".join(traceback.format_tb(error.__traceback__))
        print(f"{type(error).__name__} while answering a request, at\n{frames}", end="", file=sys.stderr, flush=True)
        return ApiError(500, "the server failed; its standard error says where", SERVER_ERROR)


@dataclass(frozen=True)
class _Form:
    """Form of the objects of a route."""

    prefix: str
    name: str
    chunk_name: str
    chunk: Callable[[Part], dict[str, Any]]
    choice: Callable[[str], dict[str, Any]]


def _text_chunk(part: Part) -> dict[str, Any]:
    return _choice(part.index, {"text": part.text}, part.finish_reason) | _state(part)


def _chat_chunk(part: Part) -> dict[str, Any]:
    delta = {"role": "assistant", "content": part.text}
    return _choice(part.index, {"delta": delta}, part.finish_reason) | _state(part)


def _choice(index: int, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}


def _state(part: Part) -> dict[str, Any]:
    return {} if part.diffusion is None else {"diffusion": part.diffusion}


_TEXT = _Form("cmpl", "text_completion", "text_completion", _text_chunk, lambda text: {"text": text})
_CHAT = _Form(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    _chat_chunk,
    lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
)


def _join(parts: Sequence[Part], form: _Form, num_prompt: int) -> dict[str, Any]:
    """Return the choices of an answer that is sent at once, and its counts of tokens."""
    texts: dict[int, str] = {}
    for part in parts:
        texts[part.index] = texts.get(part.index, "") + part.text
    reasons = {part.index: part.finish_reason for part in parts}
    count = sum(part.num_tokens for part in parts)
    usage = {"prompt_tokens": num_prompt, "completion_tokens": count, "total_tokens": num_prompt + count}
    choices = [_choice(index, form.choice(text), reasons[index]) for index, text in sorted(texts.items())]
    return {"choices": choices, "usage": usage}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


async def _cancel_when_gone(request: Request, job: Job) -> None:
    """End a job whose client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


def check_servable(run: LoadedRun) -> None:
    """Raise UnfitError for a run whose texts are not served."""
    sampler_for(run)
    run.require_tokenizer()
    if run.task_name not in (*DECODERS, *STEPPED):
        raise UnfitError(
            f"{run.folder} is a run of task {run.task_name}, and served are decoders, translators, discrete diffusion models "
            "and latent diffusion models; draw its texts with generate.py"
        )
    if run.task_name == LATENTS:
        latent_model(run)


def create_app(service: Service, hosts: frozenset[str], key: str | None = None) -> Starlette:
    """Create the application.

    Arguments:
        hosts: names of the Host header that are allowed, see `guard.allowed_hosts`.
        key: API key that requests below /v1 must have; None: they need none.
    """
    page = page_response(service.name)

    async def show_page(_: Request) -> Response:
        return page

    async def answer_error(_: Request, error: Exception) -> Response:
        if isinstance(error, ApiError):
            return error_response(error)
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, error.detail, headers=error.headers))

    async def answer_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", service.health),
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/v1/completions", service.completions, methods=["POST"]),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, key=key)],
        exception_handlers={ApiError: answer_error, HTTPException: answer_error, ClientDisconnect: answer_gone},
    )
