"""Tensors of a published checkpoint by name, read one at a time: safetensors, sharded too, and torch's pickles.

Names and shapes are known without reading the numbers. Nothing in the folder is executed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints.errors import PublishedError
from model.checkpoints.pickles import Archive, Inert, StoredTensor, list_inert_names

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_PIECE = 1 << 20
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pth", ".pt")
DTYPES = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
_OTHER_DTYPES = {"I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool, "U8": torch.uint8, "I16": torch.int16}


@dataclass(frozen=True)
class Entry:
    """One tensor: its shape, dtype and file, and how to read it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    load: Callable[[], Tensor]


@dataclass(frozen=True)
class Weights(Mapping[str, Entry]):
    """Tensors by name; `files` are those that they are in, `content` the whole pickle of a `.ckpt` or `.pth`."""

    entries: dict[str, Entry]
    files: tuple[Path, ...]
    content: Any = None

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, name: str) -> Tensor:
        """Return a tensor, of any shape, in its own dtype.

        Raises PublishedError if its numbers cannot be read, or are NaN or infinite.
        """
        entry = self.entries[name]
        try:
            tensor = entry.load()
        except (SafetensorError, OSError) as error:
            raise PublishedError(f"{entry.file}: {name} cannot be read: {error}") from error
        if not is_finite(tensor):
            raise PublishedError(f"{entry.file}: {name} has values that are NaN or infinite; the file is not usable")
        return tensor


def is_finite(tensor: Tensor) -> bool:
    """Return True if no number of a tensor, of any shape, is NaN or infinite; it is read in pieces, to save memory."""
    if not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(piece).all()) for piece in torch.split(tensor.reshape(-1), _PIECE))


def check_place(place: Path) -> None:
    """Raise PublishedError, which names what is there instead, for a folder without weights."""
    if place.is_dir() and not any((place / name).is_file() for name in (SAFE, SAFE_INDEX, PICKLE, PICKLE_INDEX)):
        raise PublishedError(f"{place}: {_describe_missing(place)}")


def open_weights(place: Path, *, allow_pickle: bool) -> Weights:
    """Open the weights of a folder, or of one file; a pickle only with `allow_pickle`.

    Raises PublishedError for weights that are missing, damaged, or pickled.
    """
    if place.is_file():
        return _open_file(place, allow_pickle)
    for index in (SAFE_INDEX, SAFE, PICKLE_INDEX, PICKLE):
        path = place / index
        if path.is_file():
            return _open_index(path, allow_pickle) if index.endswith(".json") else _open_file(path, allow_pickle)
    check_place(place)
    raise AssertionError(place)


def _describe_missing(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            "holds a LoRA adapter (adapter_config.json), not a model; merge it into its base model with peft "
            "(merge_and_unload, save_pretrained) and import that folder"
        )
    others = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".gguf", *PICKLE_SUFFIXES, ".safetensors")
    )
    if any(name.endswith(".gguf") for name in others):
        return f"holds a GGUF file ({others[0]}), whose quantised weights are not read; import the original folder"
    if others:
        return f"has neither {SAFE} nor {PICKLE}; give a file instead of the folder: {folder / others[0]}"
    return f"has no weights: neither {SAFE}, {SAFE_INDEX} nor {PICKLE}"


def _open_file(path: Path, allow_pickle: bool) -> Weights:
    if path.suffix == ".safetensors":
        return Weights(dict(_safe_entries(path)), (path,))
    if path.suffix not in PICKLE_SUFFIXES:
        raise PublishedError(f"{path}: weights are read from .safetensors, {', '.join(PICKLE_SUFFIXES)}")
    _require_pickle(path, allow_pickle)
    content = Archive(path).content
    return Weights(dict(_pickled_entries(path, content)), (path,), content)


def _require_pickle(path: Path, allow_pickle: bool) -> None:
    if not allow_pickle:
        raise PublishedError(
            f"{path} is a pickle, which can name code to run; give --allow-pickle to read its tensors without running "
            "anything (every other name in it stays inert), or a folder with model.safetensors"
        )


def _open_index(index: Path, allow_pickle: bool) -> Weights:
    """Open the shards that an index names, each tensor in the shard that the index says."""
    try:
        files = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        names = sorted({str(name) for name in files.values()})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PublishedError(f"{index}: cannot be read as an index of weights: {error}") from error
    suffix = ".safetensors" if index.name == SAFE_INDEX else ".bin"
    entries: dict[str, Entry] = {}
    for name in names:
        path = index.parent / name
        if Path(name).name != name or not name.endswith(suffix):
            raise PublishedError(f"{index}: names {name!r}; shards are {suffix} files of that folder alone")
        if not path.is_file():
            raise PublishedError(f"{path}: no such file, which {index.name} names; the download is not complete")
        shard = _open_file(path, allow_pickle)
        listed = {key for key, file in files.items() if file == name}
        if listed != set(shard):
            odd = sorted(listed ^ set(shard))
            raise PublishedError(f"{path}: its tensors are not those of {index.name}: {_shorten(odd)}")
        entries |= shard.entries
    return Weights(entries, tuple(index.parent / name for name in names))


def _safe_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                part = file.get_slice(name)
                dtype = part.get_dtype()
                known = DTYPES | _OTHER_DTYPES
                if dtype not in known:
                    raise PublishedError(
                        f"{path}: {name} has the dtype {dtype}, as of a quantised model; give weights in bf16 or float32"
                    )
                yield name, Entry(tuple(part.get_shape()), known[dtype], path, partial(_read_safe, path, name))
    except (SafetensorError, OSError) as error:
        raise PublishedError(
            f"{path}: damaged or not a safetensors file ({path.stat().st_size:,} bytes; {error}); copy it again"
        ) from error


def _read_safe(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _pickled_entries(path: Path, content: Any) -> Iterator[tuple[str, Entry]]:
    """Yield the tensors of a state dict, which is the whole pickle or under `state_dict` or `model` in it."""
    state = content if isinstance(content, dict) else {}
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict) and any(isinstance(item, StoredTensor) for item in state[key].values()):
            state = state[key]
    others = {name: item for name, item in state.items() if not isinstance(item, StoredTensor)}
    found = {name: item for name, item in state.items() if isinstance(item, StoredTensor) and isinstance(name, str)}
    inert = list_inert_names([item for item in others.values() if isinstance(item, Inert)])
    if inert:
        raise PublishedError(
            f"{path}: its state dict holds {_shorten(inert)} where tensors belong; nothing of it was run"
        )
    if not found:
        names = list_inert_names(content)
        beside = f" (it names {_shorten(names)}, which were not run)" if names else ""
        raise PublishedError(f"{path}: no tensors were found in its pickle{beside}")
    for name, item in found.items():
        yield name, Entry(item.shape, item.dtype, path, item.read)


def _shorten(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
