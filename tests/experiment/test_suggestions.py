"""For one typo in a key or a choice, the error suggests the intended one in 95 of 100 cases."""

import random
import string
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from model.parse_model_args import read_model_section
from model_factory.yaml_config.compose import compose
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.strict_model import Location

SECTION = {
    "model_type": "encoder_decoder",
    "name": "translator",
    "global_config": {"dropout": 0.1, "batch_size": 8, "activation": "GEGLU"},
    "encoder": {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 4, "attention_type": "linear", "device": "cpu"},
    "decoder": {
        "d_model": 64,
        "num_layers": 2,
        "num_heads": 4,
        "attention_type": "causal_linear",
        "nb_features": 32,
        "use_rezero": True,
        "feature_redraw_interval": 10,
        "position": "rotary",
        "tie_embeddings": False,
        "vocab_size": 99,
        "num_kv_heads": 2,
        "qk_norm": True,
        "feature_map": "relu",
    },
}
CHOICES = ("model_type", "activation", "attention_type", "position", "feature_map")
EDITS = 400


def slip(word: str, rng: random.Random) -> str:
    """Drop, double or replace one letter of `word`, or swap it with the next."""
    at = rng.randrange(len(word))
    letter = rng.choice(string.ascii_lowercase + "_")
    edits = [word[:at] + word[at + 1 :], word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :]]
    if at + 1 < len(word):
        edits.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    return rng.choice(edits)


def keys_of(data: dict[str, Any], path: Location = ()) -> Iterator[Location]:
    for key, value in data.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*path, key))


def edited(root: Node, path: Location, new: str, in_key: bool) -> Node:
    parent = root.at(path[:-1])
    assert parent is not None
    old = str(path[-1])
    entries = {
        (new if in_key and key == old else key): (replace(node, value=new) if not in_key and key == old else node)
        for key, node in parent.entries.items()
    }
    changed = replace(parent, value=entries)
    return root.edited(path[:-1], lambda _: changed) if path[:-1] else changed


@pytest.mark.parametrize("in_key", [True, False], ids=["key", "choice"])
def test_typo_gets_the_right_suggestion(in_key: bool) -> None:
    root, _ = compose(dump(SECTION), "case.yml")
    rng = random.Random(0)
    paths = [path for path in keys_of(SECTION) if in_key or path[-1] in CHOICES]
    right = wrong = 0
    failures = []
    while right + wrong < EDITS:
        path = rng.choice(paths)
        node = root.at(path)
        assert node is not None
        meant = str(path[-1] if in_key else node.value)
        typed = slip(meant, rng)
        siblings = root.at(path[:-1])
        assert siblings is not None
        if typed == meant or not typed or (in_key and typed in siblings.entries):
            continue
        _, problems = read_model_section(edited(root, path, typed, in_key))
        if not problems and not in_key:
            continue  # activations are read in any case: `GEGlU` is right
        suggestions = {problem.suggestion for problem in problems}
        if meant in suggestions and len(problems) == 1:
            right += 1
        else:
            wrong += 1
            failures.append((meant, typed, [str(problem) for problem in problems]))
    assert right / (right + wrong) >= 0.95, failures


def test_unknown_key_lists_the_keys_of_its_type() -> None:
    """List `global_config` for models with parts, but not for a diffusion model."""
    backbone = {"type": "ddit", "d_model": 8, "num_layers": 1, "num_heads": 2}
    section = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": backbone, "decoder": {}}
    root, _ = compose(dump(section), "case.yml")
    _, problems = read_model_section(root)
    [message] = [problem.message for problem in problems if problem.path == "model.decoder"]
    assert "what can be added: " in message
    assert "global_config" not in message
