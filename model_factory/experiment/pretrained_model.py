"""The key `pretrained` of the section `model`: a run whose model is trained further, such as an imported one."""

from dataclasses import replace

from model_factory.yaml_config.document import read_document
from model_factory.yaml_config.errors import ConfigError, Problem
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.paths import expand_home


def fill_pretrained(root: Node) -> tuple[Node, list[Problem]]:
    """Return the tree with the model of the run that `model.pretrained` names, under the keys that the file sets itself.

    Without `training.init_from` its weights are those of the run. A problem is returned where it names no run.
    """
    given = root.at(("model", "pretrained"))
    own = root.child("model")
    if given is None or own is None:
        return root, []
    found = _find_model(given)
    if isinstance(found, Problem):
        return root.edited(("model",), lambda model: model and model.without("pretrained")), [found]
    model = replace(found.merged(own.without("pretrained")), place=own.place, key_place=own.key_place)
    root = root.edited(("model",), lambda _: model)
    training = root.child("training")
    if training is not None and isinstance(training.value, dict) and "init_from" not in training.entries:
        root = root.edited(("training", "init_from"), lambda _: given)
    return root, []


def _find_model(given: Node) -> Node | Problem:
    """Return the section `model` of the run that a node names, else the problem."""
    name = given.value
    if not isinstance(name, str) or not name:
        return _problem(given, f"expected the folder of a run, not {given.kind}")
    folder = expand_home(name)
    if not (folder / "config.yml").is_file():
        command = f"model-factory import --from {name} --output runs/imported"
        message = f"{name} is not the folder of a run; make one of a published model: {command}"
        return _problem(given, message, "pretrained: runs/imported")
    try:
        model = read_document(folder / "config.yml").root.child("model")
    except ConfigError as error:
        return _problem(given, f"{folder / 'config.yml'} cannot be read: {error.problems[0].message}")
    return model or _problem(given, f"{folder / 'config.yml'} has no section 'model'")


def _problem(given: Node, message: str, fix: str | None = None) -> Problem:
    return Problem(given.report_place, "model.pretrained", "relation", message, fix)
