"""Save and load connectors: the backbone's `config.json`, `connector.json` and `model.safetensors`."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from torch import nn

from model.checkpoint import WEIGHTS_FILE, assign_tensors, atomic_replace, named_tensors, read_tensors, write_tensors
from model.hub import HubError
from model.latent.connectors.hugging_face import ConnectorError, load_config
from model_factory.yaml_config.paths import expand_home
from model_factory.yaml_config.schema_version import SchemaVersionError, add_version, parse_json, remove_version

Made = TypeVar("Made")

CONNECTOR_FILE = "connector.json"
_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "latent_size": lambda value: type(value) is int and 0 < value <= 2**20,
    "pad_id": lambda value: value is None or type(value) is int,
    "latent_as_gpt_emb": lambda value: isinstance(value, bool),
    "latent_as_gpt_memory": lambda value: isinstance(value, bool),
}


class Connector(ABC):
    """Base of all connectors: the config of their backbone, `save_pretrained` and `from_pretrained`."""

    architectures: ClassVar[tuple[str, ...]] = ()
    """Values of `config.model_type` that fit."""
    config: Any
    arguments: dict[str, Any]
    """Other arguments of the constructor."""

    @classmethod
    @abstractmethod
    def backbone_from(cls, config: Any, path: str) -> nn.Module:
        """Load the pretrained backbone of a folder or of a name on the hub."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the connector into a folder, in its dtype; each file is written atomically."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(target)
        write_tensors(target / WEIGHTS_FILE, named_tensors(cast(nn.Module, self)))
        content = add_version({"connector": type(self).__name__, **self.arguments})
        with atomic_replace(target / CONNECTOR_FILE) as file:
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **arguments: Any) -> Self:
        """Load a saved connector, or build a new one around a pretrained model of a folder or of the hub.

        `arguments` are the constructor's; those of a saved connector are read from its file. Raises ConnectorError,
        HubError, and CheckpointError for files that are damaged or of another connector.
        """
        config, saved = load_config(str(path)), expand_home(path) / CONNECTOR_FILE
        check_architecture(cls, config)
        if not saved.is_file():
            return cls(config, backbone=cls.backbone_from(config, str(path)), **arguments)  # type: ignore[call-arg]
        known = _read(saved, cls.__name__)
        _check_arguments(saved, known, signature(cls).parameters)
        for name, value in arguments.items():
            if name in known and known[name] != value:
                raise ConnectorError(f"{path} was saved with {name} {known[name]}, and {value} was given; leave it out")
        connector = _build(cls, config, known | arguments, path)
        weights = saved.with_name(WEIGHTS_FILE)
        assign_tensors(
            cast(nn.Module, connector),
            read_tensors(weights),
            f"{weights} does not fit {cls.__name__} of the config.json beside it",
        )
        return connector


def check_architecture(connector: type[Connector], config: Any) -> None:
    """Raise ConnectorError unless a config is of the connector's architecture."""
    found = getattr(config, "model_type", None)
    if found not in connector.architectures:
        given = f"a {type(config).__name__}" + (f" (model_type {found!r})" if found else "")
        raise ConnectorError(
            f"{connector.__name__} needs a config of {' or '.join(connector.architectures)}, and was given {given}"
        )


def _build(kind: Callable[..., Made], config: Any, arguments: dict[str, Any], path: object) -> Made:
    """Build a connector with a new backbone; raise ConnectorError if transformers cannot build it from the config."""
    try:
        return kind(config, **arguments)
    except (ConnectorError, HubError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConnectorError(
            f"{path}: no model can be built from config.json: {type(error).__name__}: {error}"
        ) from error


def _check_arguments(path: Path, known: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise ConnectorError for an unknown argument of the constructor, or an invalid value."""
    for name, value in known.items():
        is_valid = _IS_VALID.get(name)
        if name not in parameters or name in ("config", "backbone"):
            raise ConnectorError(f"{path} has an unknown argument {name!r}; save the connector again")
        if is_valid is not None and not is_valid(value):
            raise ConnectorError(f"{path} has {name}: {value!r}, which is invalid; save the connector again")


def _read(path: Path, name: str) -> dict[str, Any]:
    """Read the constructor's arguments of a saved connector."""
    try:
        found = remove_version(parse_json(path.read_text(encoding="utf-8")), path)
        connector = found.pop("connector")
    except SchemaVersionError as error:
        raise ConnectorError(str(error)) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConnectorError(f"{path} is not a valid connector.json: {error!r}; save the connector again") from error
    if not isinstance(connector, str) or not connector.isidentifier():
        raise ConnectorError(
            f"{path} is not a valid connector.json: connector is {connector!r}; save the connector again"
        )
    if connector != name:
        raise ConnectorError(f"{path} is of a {connector}; load it with {connector}.from_pretrained")
    return dict(found)
