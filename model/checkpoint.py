"""Save a model to a folder and load it: `config.yml` and `model.safetensors`, never a pickle."""

import json
import math
import os
import stat
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoints.extra_parts import add_extra_parts
from model.checkpoints.weights import DTYPES
from model.hub import replacing_weights
from model.model_types import ModelConfig
from model.parse_model_args import parse_model_config
from model.transformer.inputs import describe
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.schema_version import add_version
from model_factory.yaml_config.strict_model import StrictModel

Config = TypeVar("Config", bound=StrictModel)

METADATA = {"format": "pt"}
"""Metadata of weight files, which transformers requires; one entry, since safetensors writes several in any order.

So the schema version of the weights is in the `config.yml` or `checkpoint.json` beside them.
"""
CONFIG_FILE, WEIGHTS_FILE = "config.yml", "model.safetensors"
LAYOUT = f"a folder written by save_pretrained holds {CONFIG_FILE} and {WEIGHTS_FILE}"


_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the file and says what to do."""


def attach_config(model: object, config: ModelConfig) -> nn.Module:
    """Set `config`, `model_config` and `save_pretrained(folder)` on a module.

    An existing attribute `config` is kept, since the module may use it. Raises TypeError for anything but a module.
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
    """Write `config.yml` and `model.safetensors` into `folder`, which is created if missing.

    Each file is written atomically. A tensor under several names (tied weights) is written once.
    Raises CheckpointError if the folder cannot be written.
    """
    target = Path(folder)
    text = dump(add_version({"model": config.to_section()}))
    try:
        target.mkdir(parents=True, exist_ok=True)
        with atomic_replace(target / WEIGHTS_FILE) as weights, atomic_replace(target / CONFIG_FILE) as config_file:
            _save(weights, named_tensors(model))
            config_file.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape to a safetensors file atomically; raise CheckpointError if it cannot be written."""
    try:
        with atomic_replace(path) as file:
            _save(file, tensors)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def write_one_by_one(
    path: Path, kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], read: Callable[[str], Tensor]
) -> None:
    """Write a safetensors file atomically with one tensor in memory at a time.

    `kinds` has the dtype and shape of each tensor, `read` returns it by its name. Raises CheckpointError if the file cannot
    be written, and the errors of `read`.
    """
    order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))  # so that every tensor is aligned
    header: dict[str, object] = {"__metadata__": METADATA}
    end = 0
    for name in order:
        dtype, shape = kinds[name]
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with atomic_replace(path) as temporary, temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                file.write(_bytes_of(read(name), kinds[name]))
            file.flush()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def _bytes_of(tensor: Tensor, kind: tuple[torch.dtype, tuple[int, ...]]) -> memoryview:
    """Return the bytes of a tensor of any shape, without a copy of one on the CPU."""
    assert (tensor.dtype, tuple(tensor.shape)) == kind
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def load_model(
    folder: str | os.PathLike[str], build: Callable[[ModelConfig], nn.Module], *, device: str | None = None
) -> nn.Module:
    """Rebuild the model that `save_pretrained` wrote into `folder`, in its dtype and in training mode.

    `build` is `model.model_factory.create_model`; users call `model.model_factory.load_model`, which passes it.
    `device` replaces the device of the config, such as "cpu" on a machine without the one it was trained on.
    Raises CheckpointError for missing, damaged or unfitting files, DeviceError for a device that this machine lacks.
    """
    source = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (source / name).is_file():
            raise CheckpointError(f"{source / name}: no such file; {LAYOUT}")
    tensors = read_tensors(source / WEIGHTS_FILE)
    config = parse_model_config(source / CONFIG_FILE)
    with replacing_weights():
        model = build(config if device is None else with_device(config, device))
    assign_tensors(model, tensors, f"{source / WEIGHTS_FILE} does not match the model of {CONFIG_FILE} beside it")
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file, of any shape, on the CPU.

    Raises CheckpointError for a file that is damaged or missing.
    """
    with _explaining(path):
        return load_file(path)


class TensorFile(Mapping[str, Tensor]):
    """Tensors of a safetensors file by name, each read when it is asked for, of any shape and on the CPU.

    Tensors are mapped from the disk, and the file is opened again after each `_MAPPED` bytes, so that a model is filled
    without a second copy of its weights in memory. Raises CheckpointError for a file that is damaged or missing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, 0
        self._open()
        self._names: dict[str, None] = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with _explaining(self._path):
            if self._left <= 0:
                self._open()
            tensor: Tensor = self._file.get_tensor(name)
        self._left -= tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _open(self) -> None:
        with _explaining(self._path):
            self._file: Any = safe_open(self._path, "pt")
        self._left = _MAPPED


_MAPPED = 1 << 24


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Convert errors of reading a safetensors file inside the block to CheckpointErrors."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {LAYOUT}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file ({path.lstat().st_size} bytes; {error}); "
            "copy it again, or save the model again"
        ) from error


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, of any shape, by their name in the state dict.

    A tensor under several names is returned once, under the first.
    """
    kept = model.state_dict().keys()
    named = chain(model.named_parameters(), model.named_buffers())  # both skip repeated objects
    return {name: tensor for name, tensor in named if name in kept}


def assign_tensors(model: nn.Module, tensors: Mapping[str, Tensor], misfit: str) -> None:
    """Copy `tensors` into `model` in place, which keeps ties; raise CheckpointError unless names and shapes match.

    Each tensor must have the shape of the model's, moves to its device and keeps the dtype of the file.
    Parts that only checkpoints define (`model.checkpoints.extra_parts`) are added to the model first; the weights of parts
    that do nothing while they are zero, which have the attribute `zero_where_missing`, may be missing, and become zero.
    The error message begins with `misfit`.
    """
    add_extra_parts(model, tensors.keys())
    tensors = ChainMap(cast(Any, tensors), _zeros_where_missing(model, tensors))
    own = named_tensors(model)
    shared = own.keys() & tensors.keys()
    unfitting = [_compare_shapes(name, own[name], tensors[name]) for name in own if name in shared]
    problems = [
        *_list_names("missing", sorted(own.keys() - tensors.keys())),
        *_list_names("unexpected", sorted(tensors.keys() - own.keys())),
        *_list_names("of another shape or kind", [text for text in unfitting if text]),
    ]
    if problems:
        raise CheckpointError(f"{misfit}: {'; '.join(problems)}")
    for name, tensor in own.items():
        tensor.data = tensors[name].to(tensor.device, copy=True)  # the loaded one may be memory-mapped


def _zeros_where_missing(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for the weights of parts that do nothing while they are zero, by name, each of its own shape.

    Their dtype is that of the weights in `tensors`.
    """
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), None)
    return {
        f"{prefix}.{name}".removeprefix("."): torch.zeros_like(weight, dtype=dtype, device="cpu")
        for prefix, part in model.named_modules()
        if getattr(part, "zero_where_missing", False)
        for name, weight in part.named_parameters()
    }


def with_device(config: Config, device: str) -> Config:
    """Return a copy of `config` in which every `device`, at any depth, is `device`."""
    update: dict[str, object] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name == "device":
            update[name] = device
        elif isinstance(value, StrictModel):
            update[name] = with_device(value, device)
    return config.model_copy(update=update)


@contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, and remove it if not."""
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
    save_tensors(path, _copy_shared(on_cpu))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape, with the default permissions of a new file, which safetensors restricts to the owner.

    Raises OSError or SafetensorError if the file cannot be written.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata=METADATA)
    path.chmod(mode)


def _copy_shared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that share memory with an earlier one (views of one buffer), which safetensors rejects."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in seen or tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        seen.add(storage)
    return own


def _compare_shapes(name: str, own: Tensor, loaded: Tensor) -> str:
    """Describe how a loaded tensor differs from the model's in shape or kind of dtype; return "" if it matches."""
    if own.shape == loaded.shape and own.is_floating_point() == loaded.is_floating_point():
        return ""
    return f"{name} is {describe(loaded)} instead of {describe(own)}"


def _list_names(kind: str, names: list[str], limit: int = 5) -> Iterator[str]:
    if names:
        more = f" and {len(names) - limit} more" if len(names) > limit else ""
        yield f"{kind}: {', '.join(names[:limit])}{more}"
