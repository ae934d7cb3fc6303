"""The base of every configuration type: nothing unknown, nothing converted, relations between values checked.

A relation (say, `d_model` divisible by `num_heads`) is yielded by `violations()` instead of raised, so that a
file's reader can report all of them at once at their places, while a type built in Python raises at the first use.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

Location = tuple[str | int, ...]

DEFER_RELATIONS = "defer_relations"
"""Key of the validation context by which a file's reader asks that relations be left to itself."""


@dataclass(frozen=True)
class Violation:
    """Two or more values, each valid alone, that do not fit together.

    `at` is the place of the value to change, `involves` the places of the others, both relative to the type that
    yields the violation and spelt as in the file (by alias).
    """

    message: str
    at: Location
    involves: tuple[Location, ...] = ()
    suggestion: str | None = None
    code: str = "relation"


class StrictModel(BaseModel):
    """Frozen, strict and closed pydantic type; `violations` says which values do not fit together."""

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
