"""Base of every configuration type: no unknown keys, no conversion, checked relations between values.

A relation (say, `d_model` divisible by `num_heads`) is yielded by `violations()` instead of raised, so that all violations
of a file are reported at once with their positions. A type built in Python raises the first one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

Location = tuple[str | int, ...]

DEFER_RELATIONS = "defer_relations"
"""Key of the validation context that turns off raising, for the reader of a file."""


@dataclass(frozen=True)
class Violation:
    """Two or more values, each valid alone, that do not fit together.

    `at` is the location of the value to change, `involves` those of the others, both relative to the type that yields
    the violation and spelt as in the file (by alias).
    """

    message: str
    at: Location
    involves: tuple[Location, ...] = ()
    suggestion: str | None = None
    code: str = "relation"


class StrictModel(BaseModel):
    """Frozen, strict and closed pydantic type; `violations` yields the values that do not fit together."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,
    )

    def violations(self) -> Iterator[Violation]:
        """Yield each relation between this type's own values that does not hold."""
        yield from ()

    @model_validator(mode="after")
    def _relations_hold(self, info: ValidationInfo) -> "StrictModel":
        if info.context and info.context.get(DEFER_RELATIONS):
            return self
        for violation in self.violations():
            where = ".".join(str(key) for key in violation.at)
            hint = f" ({violation.suggestion})" if violation.suggestion else ""
            raise PydanticCustomError(
                "relation", "{where}: {message}", {"where": where, "message": violation.message + hint}
            )
        return self
