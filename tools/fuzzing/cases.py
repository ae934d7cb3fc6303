"""Cases of mutated configs, named `configs/x.yml:KIND:SEED`: files, options and output encoding."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.fuzzing.equivalent_configs import Files, rewrite_equivalently
from tools.fuzzing.option_mutators import random_options
from tools.fuzzing.packaged_configs import config_bytes, config_names, config_tree
from tools.fuzzing.text_mutators import mutate_text
from tools.fuzzing.tree_mutators import mutate_tree, to_yaml
from tools.fuzzing.values import TEXTS

_FLAGS = ((), (), (), (), ("--print-config",), ("--json",), ("--model-only",), ("--data-only",))
_ENCODINGS = ("utf-8",) * 6 + ("ascii", "cp1252")


@dataclass(frozen=True)
class CaseInput:
    """Input of a check: files (`case.yml` is checked), command line, and output encoding."""

    files: Files
    argv: tuple[str, ...]
    encoding: str
    same_as: str | None = None
    """Packaged config that the files must be equivalent to."""


@dataclass(frozen=True)
class Case:
    """Mutation of a packaged config."""

    config: str
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.config}:{self.kind}:{self.seed}"

    @classmethod
    def parse(cls, name: str) -> "Case":
        """Parse the name of a case; raise ValueError if it is invalid."""
        config, kind, seed = name.rsplit(":", 2)
        if kind not in KINDS or config not in config_names():
            raise ValueError(f"{name!r} is not a case; write CONFIG:KIND:SEED, KIND one of {', '.join(KINDS)}")
        return cls(config, kind, int(seed))

    def build(self) -> CaseInput:
        """Apply the mutation, which depends only on the name."""
        rng = random.Random(str(self))
        files, sets = KINDS[self.kind](self.config, rng)
        flags = rng.choice(_FLAGS) if self.kind != "harmless" else ()
        argv = ("--config", "case.yml", *(f"--set={option}" for option in sets), *flags)
        return CaseInput(files, argv, rng.choice(_ENCODINGS), self.config if self.kind == "harmless" else None)


def _text(name: str, rng: random.Random) -> tuple[Files, list[str]]:
    return {"case.yml": mutate_text(config_bytes(name), rng)}, []


def _tree(name: str, rng: random.Random) -> tuple[Files, list[str]]:
    return {"case.yml": to_yaml(mutate_tree(config_tree(name), rng))}, []


def _options(name: str, rng: random.Random) -> tuple[Files, list[str]]:
    return {"case.yml": config_bytes(name)}, random_options(config_tree(name), rng)


def _extends(name: str, rng: random.Random) -> tuple[Files, list[str]]:
    """Build a chain of files, each possibly mutated, whose `extends` may be wrong."""
    others = ("base.yml", "base.yml", "case.yml", "gone.yml", ".", "/dev/null", "/dev/zero", "/dev/stdin", *TEXTS)
    wrong = rng.random() < 0.5
    named = rng.choice(others) if wrong else "base.yml"
    value = rng.choice((named, [named], [named, "base.yml"], ["base.yml"] * 60, [], {"a": named}))
    tree = mutate_tree(config_tree(name), rng) if rng.random() < 0.5 else {"training": {"max_steps": 3}}
    base = {"extends": rng.choice(others), **config_tree(name)} if rng.random() < 0.3 else config_tree(name)
    base = mutate_tree(base, rng) if rng.random() < 0.5 else base
    files = {"case.yml": to_yaml({"extends": value, **tree}), "base.yml": to_yaml(base)}
    return files, random_options(config_tree(name), rng) if rng.random() < 0.2 else []


KINDS: dict[str, Callable[[str, random.Random], tuple[Files, list[str]]]] = {
    "text": _text,
    "tree": _tree,
    "options": _options,
    "extends": _extends,
    "harmless": rewrite_equivalently,
}
_SHARES = ("text",) * 7 + ("tree",) * 8 + ("options",) * 3 + ("extends", "harmless")


def cases(runs: int, seed: int) -> Iterator[Case]:
    """Yield `runs` cases, cycling through all packaged configs."""
    rng = random.Random(seed)
    names = config_names()
    for number in range(runs):
        yield Case(names[number % len(names)], rng.choice(_SHARES), seed * 10_000_000 + number)
