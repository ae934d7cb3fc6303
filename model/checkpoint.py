"""A built model to a folder and back: `config.yml` and `model.safetensors`, never a pickle."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.extra_parts import add_extra_parts
from model.inputs import describe
from model.model_types import ModelConfig
from yaml_config.dump import dump
from yaml_config.schema_version import stamped
from yaml_config.strict_model import StrictModel

Config = TypeVar("Config", bound=StrictModel)

METADATA = {"format": "pt"}
"""Of the weights' files: what transformers looks for. Of several entries safetensors writes now this, now that one first.

So the version of their form is that of the `config.yml` or `checkpoint.json` beside them.
"""
CONFIG_FILE, WEIGHTS_FILE = "config.yml", "model.safetensors"
LAYOUT = f"a folder written by save_pretrained holds {CONFIG_FILE} and {WEIGHTS_FILE}"


class CheckpointError(ValueError):
    """A folder that cannot be read back or written; the message names the file and says what to do."""


def attach_config(model: object, config: ModelConfig) -> nn.Module:
    """Give a built module its `config`, also as `model_config`, and `save_pretrained(folder)`.

    A module with a `config` of its own keeps it: its code may read it. Raises TypeError for anything but a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model type {config.model_type!r} built a {type(model).__name__}, not an nn.Module")
    attributes = {"model_config": config, "save_pretrained": partial(save_model, model, config)}
    if not hasattr(model, "config"):
        attributes["config"] = config
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def save_model(model: nn.Module, config: ModelConfig, folder: str | os.PathLike[str]) -> None:
    """Write `config.yml` and `model.safetensors` into `folder`, which is made when missing.

    Each file appears whole or not at all. A tensor under several names (tied weights) is written once.
    Raises CheckpointError where the folder cannot be written.
    """
    target = Path(folder)
    text = dump(stamped({"model": config.to_section()}))
    try:
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / WEIGHTS_FILE) as weights, replacing(target / CONFIG_FILE) as config_file:
            _save(weights, named_tensors(model))
            config_file.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file of tensors of any shape, whole or not at all; raises CheckpointError where it cannot."""
    try:
        with replacing(path) as file:
            _save(file, tensors)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def load_model(
    folder: str | os.PathLike[str], build: Callable[[ModelConfig], nn.Module], *, device: str | None = None
) -> nn.Module:
    """Rebuild the model that `save_pretrained` wrote into `folder`, in its dtype and in training mode.

    `build` is `model.model_factory.create_model`; users call `model.model_factory.load_model`, which passes it.
    `device` replaces the device of the config, such as "cpu" on a machine without the one it was trained on.
    Raises CheckpointError for missing, damaged or unfitting files, DeviceError for a device that this machine lacks.
    """
    from model.parse_model_args import parse_model_config

    source = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (source / name).is_file():
            raise CheckpointError(f"{source / name}: no such file; {LAYOUT}")
    tensors = read_tensors(source / WEIGHTS_FILE)
    config = parse_model_config(source / CONFIG_FILE)
    model = build(config if device is None else on_device(config, device))
    assign(model, tensors, f"{source / WEIGHTS_FILE} does not fit the model of {CONFIG_FILE} beside it")
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, of any shape, on the CPU.

    Raises CheckpointError for a file that is damaged or not there.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {LAYOUT}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({path.lstat().st_size} bytes; {error}); "
            "copy it again from where it was written, or save the model again"
        ) from error


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, of any shape, by name in the state dict.

    Each object comes once, under its first name.
    """
    kept = model.state_dict().keys()
    named = chain(model.named_parameters(), model.named_buffers())  # both leave out an object seen before
    return {name: tensor for name, tensor in named if name in kept}


def assign(model: nn.Module, tensors: Mapping[str, Tensor], misfit: str) -> None:
    """Put `tensors` into `model` in place, so that ties stay; raises CheckpointError unless names and shapes fit.

    Each has the shape of the model's own, goes to its device and keeps the file's dtype.
    Parts that only a checkpoint can ask for (`model.extra_parts`) are added to the model first; `misfit` opens the
    message.
    """
    add_extra_parts(model, tensors.keys())
    own = named_tensors(model)
    shared = own.keys() & tensors.keys()
    unfitting = [_shapes(name, own[name], tensors[name]) for name in own if name in shared]
    problems = [
        *_listed("missing", sorted(own.keys() - tensors.keys())),
        *_listed("unexpected", sorted(tensors.keys() - own.keys())),
        *_listed("of another shape or kind", [text for text in unfitting if text]),
    ]
    if problems:
        raise CheckpointError(f"{misfit}: {'; '.join(problems)}")
    for name, tensor in own.items():
        tensor.data = tensors[name].to(tensor.device, copy=True)  # the loaded one may be a window on the file


def on_device(config: Config, device: str) -> Config:
    """A copy of `config` in which every `device`, however deep, is `device`."""
    update: dict[str, object] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name == "device":
            update[name] = device
        elif isinstance(value, StrictModel):
            update[name] = on_device(value, device)
    return config.model_copy(update=update)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and is removed when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_tensors(path, _own_storage(on_cpu))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape, with the permissions of any new file; safetensors leaves it to its owner alone.

    Raises OSError or SafetensorError where the disk refuses.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata=METADATA)
    path.chmod(mode)


def _own_storage(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of those tensors that share memory with an earlier one (views of one buffer): safetensors refuses them."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in seen or tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        seen.add(storage)
    return own


def _shapes(name: str, own: Tensor, loaded: Tensor) -> str:
    """How a loaded tensor differs from the model's own in shape or in being floating point; empty where it fits."""
    if own.shape == loaded.shape and own.is_floating_point() == loaded.is_floating_point():
        return ""
    return f"{name} is {describe(loaded)} instead of {describe(own)}"


def _listed(kind: str, names: list[str], limit: int = 5) -> Iterator[str]:
    if names:
        more = f" and {len(names) - limit} more" if len(names) > limit else ""
        yield f"{kind}: {', '.join(names[:limit])}{more}"
