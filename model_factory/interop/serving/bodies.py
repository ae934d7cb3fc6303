"""Bodies of requests, as OpenAI's clients write them: known fields only, with their limits, and the errors of the API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_factory.experiment.training_types import MIN_TEMPERATURE
from model_factory.yaml_config.schema_version import parse_json

MAX_CHOICES, MAX_STEPS, MAX_STOPS = 8, 1024, 4
MAX_SEED = 2**32 - 1
MAX_TOKENS = 4096
"""Default of the largest `max_tokens` of a request."""
INVALID_REQUEST, SERVER_ERROR = "invalid_request_error", "server_error"


@dataclass
class ApiError(Exception):
    """Error of a request, with its HTTP status and the fields of the API's error object."""

    status: int
    message: str
    type: str = INVALID_REQUEST
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the body of the answer."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Body(BaseModel):
    """Fields of every request for texts. `steps` and `condition` are ours, for diffusion models; the rest are OpenAI's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stream: bool | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    condition: Annotated[str, Field(min_length=1)] | None = None

    @property
    def stops(self) -> list[str]:
        """Return the texts at which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def token_limit(self) -> int | None:
        """Return the number of tokens that was asked for."""
        return self.max_tokens


class CompletionBody(Body):
    """Body of POST /v1/completions."""

    prompt: str
    suffix: str | None = None
    echo: bool | None = None


class MessageBody(BaseModel):
    """Message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: str
    content: str


class ChatBody(Body):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def token_limit(self) -> int | None:
        """Return the number of tokens that was asked for, by either of OpenAI's two names."""
        return self.max_completion_tokens or self.max_tokens


Found = TypeVar("Found", bound=Body)


def read_body(kind: type[Found], data: bytes) -> Found:
    """Parse a body; raise ApiError for JSON that is invalid, an unknown field, and a value out of its range."""
    try:
        content = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON in UTF-8: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    try:
        body = kind.model_validate(content)
    except ValidationError as error:
        raise _as_api_error(error, kind) from None
    if body.temperature is not None and 0 < body.temperature < MIN_TEMPERATURE:
        limits = f"temperature is 0, which takes the likeliest token, or at least {MIN_TEMPERATURE:g}"
        raise ApiError(400, f"{limits}; got {body.temperature:g}", param="temperature")
    return body


def _as_api_error(error: ValidationError, kind: type[Body]) -> ApiError:
    problem = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in problem["loc"] if part in kind.model_fields or isinstance(part, int))
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        known = ", ".join(MessageBody.model_fields if len(problem["loc"]) > 1 else kind.model_fields)
        return ApiError(400, f"there is no field {name[:80]!r}; known: {known}", param=name[:80], code="unknown_field")
    if problem["type"] == "missing":
        name = str(problem["loc"][-1])
        return ApiError(400, f"the field {name!r} is missing", param=name, code="missing_field")
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return ApiError(400, f"{param}: {problem['msg']}; got {shown}", param=param, code="invalid_value")
