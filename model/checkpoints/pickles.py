"""Reader of torch's pickled checkpoints that calls no code of the file: only tensors and plain containers are rebuilt.

A pickle names functions and classes that the stock reader imports and calls. Here every name but those of tensors, their
storages and plain containers becomes an inert class, whose instances only keep what they were given. Only zip archives
are read, as torch writes them since 1.6; the storages in them are read when a tensor is used.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.errors import PublishedError

MAX_PICKLE = 64 * 2**20
"""Size up to which a pickle is read; that of a checkpoint with optimizer states has a few megabytes. [bytes]"""
_MAX_VALUES, _MAX_DEPTH = 100_000, 40
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Plain(dict[Any, Any]):
    """Dictionary in place of dict, OrderedDict and defaultdict; the state of a pickle is ignored."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Ignore the state, such as `_metadata` of a state dict."""


class Inert:
    """Instance of a class or result of a function that was not called: `name`, the arguments, the state and the items."""

    name = ""
    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *args: Any, **_: Any) -> "Inert":
        """Keep the arguments; a pickle may make an instance with or without a call."""
        self = super().__new__(cls)
        self.args, self.state, self.items = args, None, []
        return self

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def append(self, item: Any) -> None:
        """Keep an item of a list."""
        self.items.append(item)

    def extend(self, items: list[Any]) -> None:
        """Keep items of a list."""
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


@dataclass(frozen=True)
class _Storage:
    """Numbers of one storage in the archive."""

    key: str
    dtype: torch.dtype
    count: int


class StoredTensor:
    """Tensor in an archive, which `read` loads; `shape` and `dtype` are known before."""

    def __init__(self, archive: "Archive", storage: _Storage, offset: Any, shape: Any, stride: Any) -> None:
        whole = [offset, *shape, *stride] if isinstance(shape, tuple) and isinstance(stride, tuple) else [None]
        if not all(type(number) is int and number >= 0 for number in whole) or len(shape) != len(stride):
            raise PublishedError(f"{archive.path}: a tensor has offset {offset!r}, shape {shape!r}, stride {stride!r}")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) and last >= storage.count:
            raise PublishedError(f"{archive.path}: a tensor reaches beyond its {storage.count} numbers")
        self.archive, self.storage = archive, storage
        self.shape, self.stride, self.offset = tuple(shape), tuple(stride), offset
        self.dtype = storage.dtype

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""

    def read(self) -> Tensor:
        """Return the tensor, of any shape; raise PublishedError for a storage that is cut off."""
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        numbers = self.archive.read_storage(self.storage)
        return numbers.as_strided(self.shape, self.stride, self.offset).clone()


class Archive:
    """A zip archive of torch; `content` is its pickle with `StoredTensor` in place of tensors.

    Raises PublishedError for a file of another or an older format, and for a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            pickles = [entry for entry in self._zip.infolist() if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise PublishedError(f"{path}: a zip archive without data.pkl, which torch.save does not write")
            self._prefix = pickles[0].filename.removesuffix("data.pkl")
            self._check_byte_order()
            self.content = self._unpickle(pickles[0])
        except zipfile.BadZipFile as error:
            raise PublishedError(
                f"{path}: not a zip archive ({error}); formats of torch before 1.6 are not read. Load it where it was "
                "written and save it with safetensors"
            ) from error

    def read_storage(self, storage: _Storage) -> Tensor:
        """Return the numbers [count] of a storage; raise PublishedError if they are missing or cut off."""
        name = f"{self._prefix}data/{storage.key}"
        size = storage.count * storage.dtype.itemsize
        try:
            entry = self._zip.getinfo(name)
            if entry.file_size != size or entry.compress_type != zipfile.ZIP_STORED:
                raise PublishedError(f"{self.path}: {name} has {entry.file_size} bytes, and its tensors need {size}")
            data = bytearray(self._zip.read(entry))
        except (KeyError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise PublishedError(f"{self.path}: {name} cannot be read: {error}") from error
        return torch.frombuffer(data, dtype=storage.dtype)

    def _check_byte_order(self) -> None:
        name = f"{self._prefix}byteorder"
        if name in self._zip.namelist() and self._zip.read(name).strip() != b"little":
            raise PublishedError(f"{self.path}: was written on a machine with another byte order")

    def _unpickle(self, entry: zipfile.ZipInfo) -> Any:
        if entry.file_size > MAX_PICKLE or entry.compress_type != zipfile.ZIP_STORED:
            raise PublishedError(
                f"{self.path}: its pickle has {entry.file_size:,} bytes, and at most {MAX_PICKLE:,} are read, uncompressed"
            )
        try:
            return _Unpickler(self._zip.read(entry), self).load()
        except PublishedError:
            raise
        except Exception as error:  # a damaged pickle raises any type
            raise PublishedError(f"{self.path}: its pickle is damaged ({type(error).__name__}: {error})") from error


class _Unpickler(pickle._Unpickler):
    """Reader in Python, whose memo is a dictionary: the one in C allocates what a file asks for."""

    def __init__(self, data: bytes, archive: Archive) -> None:
        super().__init__(io.BytesIO(data))
        self._archive = archive
        self._inert: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name; nothing is imported."""
        full = f"{module}.{name}"
        if full in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return self._tensor
        if full == "torch._utils._rebuild_parameter":
            return _first
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if full == "torch.Size":
            return tuple
        if full in ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"):
            return Plain
        return self._inert.setdefault(full, type("Inert", (Inert,), {"name": full}))

    def get_extension(self, code: int) -> None:
        """Refuse numbers in place of names, which no checkpoint has."""
        raise PublishedError(f"{self._archive.path}: its pickle has the extension code {code}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage of a persistent id."""
        kind, dtype, key, _, count = pid
        if (
            kind != "storage"
            or not isinstance(dtype, torch.dtype)
            or type(count) is not int
            or not isinstance(key, str)
        ):
            raise PublishedError(f"{self._archive.path}: a storage of an unknown kind, {getattr(dtype, 'name', dtype)}")
        return _Storage(key, dtype, count)

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
        if not isinstance(storage, _Storage):
            raise PublishedError(f"{self._archive.path}: a tensor without a storage")
        return StoredTensor(self._archive, storage, offset, shape, stride)


def _first(value: Any, *_: Any) -> Any:
    """Return the tensor of a parameter."""
    return value


def plain_values(value: Any) -> Any:
    """Return the mappings, lists and scalars of a pickled config, also inside the nodes of OmegaConf; None for others.

    Raises PublishedError for a config that is too deep or too large for one.
    """
    budget = [_MAX_VALUES]

    def plain(item: Any, depth: int) -> Any:
        budget[0] -= 1
        if depth > _MAX_DEPTH or budget[0] < 0:
            raise PublishedError("the config in the checkpoint's pickle is too large or too deep for a config")
        if isinstance(item, Inert):
            state = item.state if isinstance(item.state, dict) else {}
            return plain(state.get("_content", state.get("_val")), depth + 1)
        if isinstance(item, dict):
            return {key: plain(inner, depth + 1) for key, inner in item.items() if isinstance(key, str)}
        if isinstance(item, list | tuple):
            return [plain(inner, depth + 1) for inner in item]
        return item if item is None or isinstance(item, str | int | float | bool) else None

    return plain(value, 0)


def list_inert_names(value: Any) -> list[str]:
    """Return the sorted names of classes and functions of a pickle that were neither imported nor called."""
    return sorted({item.name for item in _walk(value, set()) if isinstance(item, Inert)})


def _walk(value: Any, seen: set[int]) -> Iterator[Any]:
    stack: list[Any] = [value]
    children: dict[type, Callable[[Any], list[Any]]] = {
        Plain: lambda item: [*item.keys(), *item.values()],
        dict: lambda item: [*item.keys(), *item.values()],
        list: list,
        tuple: list,
    }
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, Inert):
            stack += [item.args, item.state, item.items]
        elif type(item) in children:
            stack += children[type(item)](item)
