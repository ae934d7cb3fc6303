"""Mutators of files: of bytes, of JSON, YAML or safetensors content, and of the file itself."""

import json
import random
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from model_factory.yaml_config.compose import compose
from model_factory.yaml_config.dump import dump
from tools.fuzzing.text_mutators import mutate_text
from tools.fuzzing.tree_mutators import mutate_plain

_PIECES = (
    b"\x00",
    b"\xff",
    b"\n",
    b"{",
    b"[",
    b'"',
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b"\xed\xa0\x80",
    b"\xc3",
)


def mutate_file(path: Path, rng: random.Random) -> str:
    """Mutate a file and return a description of the mutation."""
    if rng.random() < 0.12:
        return _replace_file(path, rng)
    old = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        new, way = _mutate_json(old, rng), "its values"
    elif path.suffix == ".jsonl" and rng.random() < 0.6:
        new, way = _mutate_json_lines(old, rng), "the values of a line"
    elif path.suffix == ".safetensors" and rng.random() < 0.7:
        new, way = _mutate_safetensors(old, rng), "its header"
    elif path.suffix == ".yml" and rng.random() < 0.7:
        new, way = dump(mutate_plain(compose(old.decode(), path.name)[0].data(), rng)).encode(), "its values"
    elif path.suffix in (".yml", ".json", ".jsonl", ".csv", ".txt", ".smi") and rng.random() < 0.5:
        new, way = mutate_text(old, rng), "its text"
    else:
        new, way = _mutate_bytes(old, rng), "its bytes"
    path.write_bytes(new)
    return way


def _replace_file(path: Path, rng: random.Random) -> str:
    """Delete or empty the file, or replace it by a folder, a link to itself or another file of its folder."""
    way = rng.choice(("gone", "empty", "a folder", "a loop", "another file"))
    content = path.read_bytes()
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    path.unlink()
    if way == "empty":
        path.touch()
    elif way == "a folder":
        path.mkdir()
    elif way == "a loop":
        path.symlink_to(path.name)
    elif way == "another file" and others:
        shutil.copy(rng.choice(others), path)
    elif way == "another file":
        path.write_bytes(content[::-1])
    return way


def _mutate_bytes(old: bytes, rng: random.Random) -> bytes:
    """Flip, truncate, delete, insert, repeat or shuffle bytes."""
    new, here = bytearray(old), rng.randint(0, len(old))
    way = rng.randrange(6)
    if way == 0:
        for _ in range(rng.choice((1, 2, 30)) if new else 0):
            new[rng.randrange(len(new))] = rng.randrange(256)
    elif way == 1:
        del new[here:]
    elif way == 2:
        del new[here : here + rng.choice((1, 8, 100))]
    elif way == 3:
        new[here:here] = rng.choice(_PIECES)
    elif way == 4:
        new += old[here:]
    else:
        end = min(len(new), here + 64)
        piece = list(new[here:end])
        rng.shuffle(piece)
        new[here:end] = bytes(piece)
    return bytes(new)


def _mutate_json(old: bytes, rng: random.Random) -> bytes:
    content_tree = mutate_plain({"it": json.loads(old)}, rng)
    return json.dumps(content_tree.get("it"), indent=1).encode()


def _mutate_json_lines(old: bytes, rng: random.Random) -> bytes:
    lines = old.splitlines()
    here = rng.randrange(len(lines))
    lines[here] = json.dumps(mutate_plain(json.loads(lines[here]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def _mutate_safetensors(old: bytes, rng: random.Random) -> bytes:
    """Mutate the values or the length of the header; format: https://github.com/huggingface/safetensors."""
    size = int.from_bytes(old[:8], "little")
    header: dict[str, Any] = json.loads(old[8 : 8 + size])
    if rng.random() < 0.2:
        wrong = rng.choice((0, 1, size - 1, size + 1, len(old), 2**31, 2**63, 2**64 - 1))
        return wrong.to_bytes(8, "little") + old[8:]
    names = [name for name in header if name != "__metadata__"]
    way, name = rng.randrange(5), rng.choice(names)
    if way == 0:
        header = mutate_plain(deepcopy(header), rng)
    elif way == 1:
        header[name]["shape"] = rng.choice(
            ([], [0], [2**40], [-1], header[name]["shape"][::-1], [1, *header[name]["shape"]])
        )
    elif way == 2:
        header[name]["dtype"] = rng.choice(("F64", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "x", "", 3))
    elif way == 3:
        header[name]["data_offsets"] = rng.choice(([0, 0], [0, 2**40], [8, 4], [0], header[names[0]]["data_offsets"]))
    else:
        header[name + "x"] = header.pop(name)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + old[8 + size :]
