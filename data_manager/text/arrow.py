"""Corpora of `datasets.Dataset` and `IterableDataset` tables: from disk, from the hub, or from a custom source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_manager.documents import Corpus, HashFile, Invalid, Notes, Piece
from data_manager.errors import DataError, not_found
from data_manager.paths import places_of
from data_manager.text.chat import Conversations
from data_manager.text.csv_files import check_columns
from data_manager.text.table_types import ColumnsConfig, DiskDatasetConfig
from data_manager.text.tables import Classes, classes_of, columns_in, messages_of, read_pieces
from data_manager.text.template import parse_template
from model_factory.yaml_config.schema_version import parse_json

if TYPE_CHECKING:
    import datasets

_BATCH = 1000


@dataclass(frozen=True)
class ArrowRows:
    """Corpus of the rows of a loaded table; messages name a row by `label` and its number."""

    table: "datasets.Dataset | datasets.IterableDataset"
    templates: tuple[str, ...]
    label: str
    skip_invalid: bool = False
    classes: Classes | None = None
    measured: tuple[str, ...] = ()
    messages: Conversations | None = None

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the hashes of the table's files, or of its rows if it has no files."""
        files = getattr(self.table, "cache_files", None) or []
        indices = getattr(self.table, "_indices", None)
        if files and indices is None:
            content: Any = [hash_file(Path(file["filename"])) for file in files]
            # slices of one table share its files; the fingerprint distinguishes them
            content += [len(self.table), self.table._fingerprint]
        else:
            content = _hash_of_rows(self._rows())
        found: list[Any] = [content, self.templates, self.skip_invalid]
        found += [] if self.classes is None else [self.classes.column, self.classes.names]
        found += [] if self.messages is None else ["messages", self.messages.column, self.messages.chat]
        return [*found, self.measured] if self.measured else found

    def shards(self) -> Sequence[Corpus]:
        """Return the shards of a stream; a table on disk is a single shard."""
        count = getattr(self.table, "num_shards", 1)
        if hasattr(self.table, "cache_files") or count == 1:
            return [self]
        parts = [self.table.shard(count, index) for index in range(count)]
        return [replace(self, table=part) for part in parts]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read a piece from each row; raise DataError if a column is missing."""
        templates = [parse_template(text) for text in self.templates]
        invalid = Invalid(self.skip_invalid, notes)
        name, columns = f"{self.label} row", (self.classes, self.measured, self.messages)
        yield from read_pieces(self._rows(), templates, name, invalid, *columns)

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        templates = [parse_template(text) for text in self.templates]
        columns = columns_in(templates, self.classes, self.measured, self.messages)
        self._check_content()
        known = self.table.column_names
        if known is not None:
            check_columns(self.label, columns, known)
            known_ones = [name for name in known if name.partition(".")[0] in columns or name in columns]
            table = self.table.select_columns(known_ones)
        else:
            table = self.table
        number = 0
        for batch in table.iter(batch_size=_BATCH):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, values, strict=True))

    def _check_content(self) -> None:
        """Raise DataError if the files of a table are corrupt; Arrow would read beyond the end of its buffers."""
        from pyarrow import ArrowException  # type: ignore[import-untyped,unused-ignore]

        data = getattr(self.table, "data", None)
        try:
            if data is not None:
                data.validate(full=True)
        except ArrowException as error:
            raise DataError(f"{self.label} is corrupt: {' '.join(str(error).split())}") from error


def _hash_of_rows(rows: Iterator[tuple[int, Mapping[str, Any]]]) -> str:
    digest = sha256()
    for _, row in rows:
        digest.update(repr(sorted(row.items())).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def make_corpora(tables: "Mapping[str, Any]", config: ColumnsConfig, label: str) -> dict[str, Corpus]:
    """Return a corpus for each split of loaded tables."""
    skip, columns = config.on_invalid == "skip", (classes_of(config), config.condition_names, messages_of(config))
    return {
        str(split): ArrowRows(table, config.templates, f"{label} {split}", skip, *columns)
        for split, table in tables.items()
    }


def _check_stays_inside(folder: Path) -> None:
    """Raise DataError if a folder of `save_to_disk` refers to files outside, by name or by a link."""
    for path in (*folder.rglob("dataset_dict.json"), *folder.rglob("state.json")):
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError("it is a link to another folder")
            held = parse_json(path.read_text(encoding="utf-8"))
            names = [*held.get("splits", ()), *(one["filename"] for one in held.get("_data_files") or ())]
            outside = [name for name in names if not _is_inside(path.parent, name, folder)]
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path} cannot be read as a file of save_to_disk: {error}") from error
        if outside:
            raise DataError(f"{path} names {outside[0]!r}, which is outside its folder; files outside are not read")


def _is_inside(parent: Path, name: str, folder: Path) -> bool:
    """Return True if `name` is a plain file name that resolves to a path inside a folder."""
    is_plain = name not in ("", ".", "..") and Path(name).name == name
    return is_plain and (parent / name).resolve().is_relative_to(folder.resolve())


def disk_corpora(config: DiskDatasetConfig) -> dict[str, Corpus]:
    """Load the splits of a folder; a single table becomes the split `train`. Raise DataError."""
    import datasets

    places = list(places_of(config.path, config))
    folder = next((place for place in places if place.exists()), None)
    if folder is None:
        raise not_found(
            f"data set {config.name!r}: the folder {config.path!r}",
            places,
            "Move it to one of these paths, or set global_config.corpus_dir to its folder.",
        )
    _check_stays_inside(folder)
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets and Arrow raise many kinds of errors
        detail = " ".join(str(error).split())
        raise DataError(
            f"{folder} cannot be read as a folder of save_to_disk: {type(error).__name__}: {detail}\n"
            "To read files of one table, use source: parquet, json or csv."
        ) from error
    if not len(loaded):
        raise DataError(f"{folder} contains no {'splits' if isinstance(loaded, dict) else 'rows'}")
    return make_corpora(loaded if isinstance(loaded, dict) else {"train": loaded}, config, str(folder))
