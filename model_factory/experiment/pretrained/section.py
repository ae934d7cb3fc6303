"""Section `model` of a file that names a model to train further: `pretrained: RUN`, or a published model by its name.

The settings are those of the run or of the published model, under the keys that the file sets itself. The weights are set
as `training.init_from`: the run, or the name with its commit, so that a run's config.yml tells where it began.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from model.checkpoints.errors import PublishedError
from model_factory.yaml_config.document import read_document
from model_factory.yaml_config.errors import ConfigError, Problem
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.paths import expand_home

KEYS = ("pretrained", "revision")
_PINNED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*@[0-9a-f]{40}")


class Found(NamedTuple):
    """Section `model` of a pretrained model, and the value of `training.init_from` that names its weights."""

    section: Node
    weights: str


def is_published_place(place: str) -> bool:
    """Return True for `owner/name@COMMIT`, and for the folder of a published model: it has a config.json, and is no run."""
    folder = expand_home(place)
    if not folder.exists():
        return _PINNED.fullmatch(place) is not None
    return not (folder / "config.yml").is_file() and (folder / "config.json").is_file()


def fill_pretrained(root: Node) -> tuple[Node, list[Problem]]:
    """Return the tree with the model that `model.pretrained` names, under the keys that the file sets itself.

    Without `training.init_from` its weights are those of that model. A problem is returned where it names no model, at once
    for a folder, and within two seconds where the hub cannot be reached.
    """
    given = root.at(("model", "pretrained"))
    own = root.child("model")
    if given is None or own is None:
        return root, []
    rest = own.without(*KEYS)
    found = _find_model(given, own.child("revision"))
    if not isinstance(found, Problem):
        found = _check_type(found, rest)
    if isinstance(found, Problem):
        return root.edited(("model",), lambda _: None), [found]  # else its missing keys would be problems, too
    model = replace(found.section.merged(rest), place=own.place, key_place=own.key_place)
    root = root.edited(("model",), lambda _: model)
    return _with_weights(root, replace(given, value=found.weights, text=None)), []


def _with_weights(root: Node, weights: Node) -> Node:
    """Return the tree with `training.init_from`, unless the file sets it; `training` is added to a file with data sets."""
    training = root.child("training")
    if training is None and root.child("datasets") is not None:
        training = replace(weights, value={})
    if training is None or not isinstance(training.value, dict) or "init_from" in training.entries:
        return root
    filled = replace(training, value={**training.entries, "init_from": weights})
    return root.edited(("training",), lambda _: filled)


def _find_model(given: Node, revision: Node | None) -> Found | Problem:
    """Return the model of a run, of a published folder, or of a name on the hub, else the problem."""
    name = given.value
    if not isinstance(name, str) or not name:
        return _problem(given, f"expected a run or a name on the hub, not {given.kind}")
    if revision is not None and (not isinstance(revision.value, str) or not revision.value):
        return _problem(revision, f"expected a commit, branch or tag in quotes, not {revision.kind}", key="revision")
    folder = expand_home(name)
    if revision is not None and folder.exists():
        return _problem(revision, f"{name} is here, and a revision is of a name on the hub", "leave it out", "revision")
    if revision is not None and "@" in name:
        return _problem(revision, f"{name} names a revision already", "leave it out", "revision")
    if (folder / "config.yml").is_file():
        return _find_run(given, folder)
    if not folder.exists() or is_published_place(name):
        return _find_published(given, name if revision is None else f"{name}@{revision.value}")
    message = f"{name} is neither the folder of a run nor that of a published model, with config.json"
    return _problem(given, message, "pretrained: runs/imported")


def _find_run(given: Node, folder: Path) -> Found | Problem:
    try:
        model = read_document(folder / "config.yml").root.child("model")
    except ConfigError as error:
        return _problem(given, f"{folder / 'config.yml'} cannot be read: {error.problems[0].message}")
    return (
        Found(model, str(given.value)) if model else _problem(given, f"{folder / 'config.yml'} has no section 'model'")
    )


def _find_published(given: Node, name: str) -> Found | Problem:
    """Return a published model, downloaded if it is not in the hub's cache."""
    from model_factory.experiment.pretrained.published import read_pretrained

    try:
        found = read_pretrained(name, str(given.report_place))
    except PublishedError as error:
        command = f"model-factory import --from {name} --output runs/imported"
        return _problem(given, f"{error}; for its options make a run of it: {command}", "pretrained: runs/imported")
    return Found(_nodes(found.section, given), found.place)


def _nodes(value: Any, like: Node) -> Node:
    """Return plain data as a tree whose nodes all have the position of one."""
    if isinstance(value, dict):
        return replace(like, value={str(key): _nodes(item, like) for key, item in value.items()}, text=None)
    if isinstance(value, list):
        return replace(like, value=[_nodes(item, like) for item in value], text=None)
    return replace(like, value=value, text=None)


def _check_type(found: Found, own: Node) -> Found | Problem:
    """Return the model, or the problem that the file names another type."""
    theirs, ours = found.section.child("model_type"), own.child("model_type")
    if theirs is None or ours is None or theirs.value == ours.value:
        return found
    fix = f"model_type: {theirs.value}"
    message = f"model_type is {ours.value!r}, and {found.weights} is of the type {theirs.value!r}"
    return Problem(ours.report_place, "model.model_type", "relation", message, fix)


def _problem(node: Node, message: str, fix: str | None = None, key: str = "pretrained") -> Problem:
    return Problem(node.report_place, f"model.{key}", "relation", message, fix)
