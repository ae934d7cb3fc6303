"""Check of the content of memory-mapped shards by the SHA-256 of their files, which reads all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_manager.errors import DataError
from data_manager.row_types import TokensConfig
from data_manager.rows.shards import MappedRows, hash_file, open_shards


@dataclass(frozen=True)
class CheckedShards:
    """Numbers of files and bytes that have the content they were written with."""

    files: int
    bytes: int


def check_content(config: TokensConfig, advance: Callable[[int], object] = lambda _: None) -> CheckedShards:
    """Compare all files of the folder `shards` of a data set with their hashes.

    `advance` is called with the number of bytes of each file. Raises DataError that names every file with another content,
    and for shards without hashes, which earlier versions wrote.
    """
    files = [(path, digest) for rows in open_shards(config).values() for path, digest in _hashes(rows)]
    wrong, total = [], 0
    for path, digest in files:
        total += path.stat().st_size
        if hash_file(path) != digest:
            wrong.append(path)
        advance(path.stat().st_size)
    if wrong:
        lines = "".join(f"\n  {path}" for path in wrong)
        raise DataError(
            f"data set {config.name!r}: {len(wrong)} of {len(files)} files have another content than when they were "
            f"written:{lines}\ncopy them again, or write the shards again with --write-shards"
        )
    return CheckedShards(len(files), total)


def _hashes(rows: MappedRows) -> list[tuple[Path, str]]:
    if not rows.hashes:
        raise DataError(
            f"{rows.folder} was written by an earlier version, without hashes of its files; write it again with "
            "--write-shards to check their content"
        )
    return [(rows.folder / name, digest) for name, digest in rows.hashes.items()]
