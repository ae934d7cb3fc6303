"""Validate a tree by a pydantic type: return the object, or every problem with its position.

One pass of pydantic misses later errors (it checks no relation between two values while a third is wrong). So a tree with
problems is repaired (unknown keys dropped, misspelt ones renamed, bad values replaced by defaults or stand-ins) and
validated again, until relations between the valid values can be checked.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.messages import explain
from model_factory.yaml_config.model_tree import fields_of, model_at, model_in, tag_of, walk
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import DEFER_RELATIONS, Location, StrictModel
from model_factory.yaml_config.synonyms import find_synonym

Model = TypeVar("Model", bound=StrictModel)
MAX_PROBLEMS = 100
"""Problems after which the check of a section stops: nobody fixes more at a time, and each costs a copy of the tree."""
_STAND_INS: tuple[Any, ...] = (1, 1.0, "x", True, {}, [], [1], ["x"])


@dataclass(frozen=True)
class Checked(Generic[Model]):
    """Result of a check: the object (None if there are problems) and the problems; `loose` is the object with bad values replaced."""

    value: Model | None
    problems: list[Problem]
    loose: Model | None = None


def check(
    node: Node, model: type[Model], path: Location = (), also: Iterable[str] = (), hidden: Iterable[str] = ()
) -> Checked[Model]:
    """Validate the mapping `node` at `path` of its file.

    `also` are keys known one level up; `hidden` are keys of the type that a file does not write, so none is suggested.
    """
    return _Check(node, model, path, tuple(also), tuple(hidden)).run()


class _Check(Generic[Model]):
    def __init__(
        self, node: Node, model: type[Model], path: Location, also: tuple[str, ...], hidden: tuple[str, ...]
    ) -> None:
        self.original, self.node, self.model, self.path, self.also = node, node, model, path, also
        self.hidden = hidden
        self.problems: list[Problem] = []
        self.repaired: set[Location] = set()
        self.tries: dict[Location, int] = {}

    def run(self) -> Checked[Model]:
        loose: Model | None = None
        for _ in range(2 * len(_STAND_INS) + 8):
            try:
                loose = self.model.model_validate(
                    self.node.data(), context={DEFER_RELATIONS: True}, by_alias=True, by_name=False
                )
                break
            except ValidationError as error:
                details = error.errors(include_url=False)
                if not self.repair([self.located(detail) for detail in details[:MAX_PROBLEMS]]):
                    break
                if len(self.problems) >= MAX_PROBLEMS:
                    self.problems = [*self.problems[:MAX_PROBLEMS], self.unread()]
                    break
        if loose is not None:
            self.relations(loose)
        return Checked(None if self.problems else loose, self.problems, loose)

    def unread(self) -> Problem:
        """Return the problem of a section with too many problems."""
        message = f"reading stops here, after {MAX_PROBLEMS} problems; mend them first"
        return Problem(self.original.report_place, dotted(self.path), "too_large", message)

    def located(self, detail: ErrorDetails) -> ErrorDetails:
        """Remove what pydantic adds to a location: tags of unions and names of validators."""
        where: list[str | int] = []
        for step, key in enumerate(detail["loc"]):
            node = self.node.at(tuple(where))
            last = step == len(detail["loc"]) - 1
            missing_here = last and detail["type"] == "missing"
            if node is not None and (node.child(key) is not None or missing_here):
                where.append(key)
        return {**detail, "loc": tuple(where)}

    def repair(self, details: list[ErrorDetails]) -> bool:
        """Report the new errors among `details` and repair the tree; return False if nothing more can be done."""
        renamed = self.rename_misspelt(details)
        changed = bool(renamed)
        left = [detail for detail in details if detail["loc"] not in renamed]
        self.problems += [self.describe(detail) for detail in left if not self.is_repaired(detail["loc"])]
        for detail in left:
            self.repaired.add(detail["loc"])
            changed |= self.mend(detail["loc"], detail["type"] == "extra_forbidden")
        return changed

    def rename_misspelt(self, details: list[ErrorDetails]) -> set[Location]:
        """Report unknown keys that are near a known one, and keep their values under the right key.

        A missing key that was misspelt is reported as one problem.
        """
        handled: set[Location] = set()
        for detail in details:
            if detail["type"] != "extra_forbidden":
                continue
            parent, key = detail["loc"][:-1], str(detail["loc"][-1])
            mapping, value = self.node.at(parent), self.node.at(detail["loc"])
            if mapping is None or value is None:
                continue
            absent = self.absent_keys(parent, value.place.file)
            found = find_synonym(key, dotted((*self.path, *parent)), absent)
            near = found[1] if found and found[2] else closest(key, absent)
            if near is None or near not in absent or near in self.also:
                continue
            if found and found[2]:  # another tool's values may be of another kind, which is no second problem
                self.repaired.add((*parent, near))
            self.problems.append(self.describe(detail))
            moved = replace(value, origin=value.origin or (*self.path, *detail["loc"]))
            edited = replace(mapping, value={**mapping.without(key).entries, near: moved})
            self.node = self.node.edited(parent, lambda _, edited=edited: edited) if parent else edited  # type: ignore[misc]
            handled |= {detail["loc"], (*parent, near)}
        return handled

    def mend(self, where: Location, drop: bool) -> bool:
        """Drop the value at `where` or replace it by the next stand-in; return False when all have been tried."""
        if not where:
            return False
        attempt = self.tries.get(where, -1 if self.node.at(where) is not None else 0)
        if drop:
            attempt = -1
        if attempt >= len(_STAND_INS):
            return False
        self.tries[where] = attempt + 1
        self.node = self.node.edited(where, self.stand_in(attempt))
        return True

    def stand_in(self, attempt: int) -> "Callable[[Node | None], Node | None]":
        if attempt < 0:
            return lambda _: None
        value = _STAND_INS[attempt]
        place = self.original.place
        wrapped: Any = [Node(item, place) for item in value] if isinstance(value, list) else value
        return lambda old: Node(wrapped, place)

    def is_repaired(self, where: Location) -> bool:
        """Return True inside and around a repaired value, where errors may come from the repair."""
        return any(where[: len(known)] == known or known[: len(where)] == where for known in self.repaired)

    def describe(self, detail: ErrorDetails) -> Problem:
        """Convert a pydantic error to a problem with its position."""
        where, kind = detail["loc"], detail["type"]
        node = self.node.at(where)
        if kind == "missing":
            parent = self.nearest(where[:-1])
            return Problem(parent.report_place, self.written(where), "missing_key", f"missing key {str(where[-1])!r}")
        if kind == "extra_forbidden" and node is not None:
            key = str(where[-1])
            hint, fix = self.find_right_key(where[:-1], key, node.place.file)
            message = f"unknown key {key!r}{hint}"
            return Problem(node.key_place or node.place, self.written(where), "unknown_key", message, fix)
        explanation = explain(detail, node, self.node.at(where[:-1]) if where else None)
        place = (node or self.nearest(where)).report_place
        return Problem(place, self.written(where), explanation.code, explanation.message, explanation.suggestion)

    def find_right_key(self, parent: Location, key: str, file: str) -> tuple[str, str | None]:
        """Return the end of the message about an unknown key, and the key to write instead, if one is found.

        It is our key for another tool's name, or the nearest key that is not present yet, here or in a nested mapping.
        """
        absent = self.absent_keys(parent, file)
        synonym, fix, is_here = find_synonym(key, dotted((*self.path, *parent)), absent) or (None, None, False)
        if synonym and fix and is_here:
            return synonym.hint(fix), fix
        near = closest(key, absent) or self.nested_key(parent, key)
        if near:
            return f"; did you mean {near!r}?", near
        if synonym:
            fix = self.nested_key(parent, synonym.key) or fix
            return synonym.hint(fix or ""), fix or None
        absent = self.absent_keys(parent)
        return f"; what can be added: {', '.join(absent)}" if 0 < len(absent) <= 18 else "", None

    def nested_key(self, parent: Location, key: str) -> str | None:
        """Return `section.key` if a mapping inside the one at `parent` has the key, else None."""
        model = model_at(self.model, parent, self.node)
        for name, field in fields_of(model).items() if model else ():
            inner = model_in(field.annotation)
            if inner is not None and key in fields_of(inner):
                return f"{name}.{key}"
        return None

    def absent_keys(self, parent: Location, file: str | None = None) -> list[str]:
        """Return the known keys of the mapping at `parent` that are absent, or that `file` only overrides."""
        model, present = model_at(self.model, parent, self.node), self.nearest(parent).entries
        known = [*(fields_of(model) if model else ()), *(self.also if not parent else ())]
        tagged = tag_of(self.model, parent, self.node) if model is None and parent else None
        known += [tagged.key] if tagged else []
        overridden = {name for name, node in present.items() if file and node.place.file != file}
        hidden = () if parent else self.hidden
        unique = dict.fromkeys(name for name in known if name not in hidden)
        return [name for name in unique if name not in present or name in overridden]

    def nearest(self, where: Location) -> Node:
        """Return the node at `where`, or its closest parent."""
        node = self.node.at(where)
        return node if node is not None else self.nearest(where[:-1])

    def written(self, where: Location) -> str:
        """Return the dotted path under which a value was written."""
        node = self.node.at(where)
        return dotted(node.origin if node and node.origin else (*self.path, *where))

    def relations(self, value: StrictModel) -> None:
        """Report the relations that do not hold, except those that involve a repaired value."""
        for prefix, model in walk(value, ()):
            for violation in model.violations():
                at = (*prefix, *violation.at)
                if any(self.is_repaired((*prefix, *loc)) for loc in (violation.at, *violation.involves)):
                    continue
                node = self.nearest(at)
                place = node.key_place if violation.code == "unknown_key" and node.key_place else node.report_place
                hint = f"; {advice(violation.suggestion)}" if violation.suggestion else ""
                message = violation.message + hint
                self.problems.append(Problem(place, self.written(at), violation.code, message, violation.suggestion))


def advice(suggestion: str) -> str:
    """Format a suggestion as the end of a message: a bare `key: value` becomes `try key: value`."""
    return f"try {suggestion}" if re.match(r"\w+: ", suggestion) else suggestion
