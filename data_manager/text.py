"""Documents of each split of the sources that read files, and of the embedded text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.documents import Corpus, Joined, Listed
from data_manager.errors import DataError
from data_manager.shares import divided
from data_manager.tables import TableFile, classes_of
from data_manager.text_files import PairedFiles, TextFile, find_paths
from data_manager.text_types import CorpusConfig, EmbeddedDatasetConfig, FilesConfig, PairFiles, TextDatasetConfig

if TYPE_CHECKING:
    from data_manager.smiles_types import SmilesDatasetConfig
    from data_manager.table_types import CsvDatasetConfig, JsonDatasetConfig, ParquetDatasetConfig


def text_corpora(config: TextDatasetConfig) -> dict[str, Corpus]:
    """Documents, or pairs of lines, of each split. Raises DataError for a file that is not there."""
    skip = config.on_invalid == "skip"
    found: dict[str, Corpus] = {}
    for split, files in config.data_files.items():
        if isinstance(files, PairFiles):
            source = files_of(config, files.source, f"the source file of split {split!r},")
            target = files_of(config, files.target, f"the target file of split {split!r},")
            if len(source) != len(target):
                raise DataError(f"{files.source} are {len(source)} files and {files.target} are {len(target)}")
            found[split] = joined(PairedFiles(*pair, skip) for pair in zip(source, target, strict=True))
        else:
            paths = split_paths(config, split)
            found[split] = joined(TextFile(path, config.documents or "file", skip) for path in paths)
    return as_divided(config, found)


def table_corpora(config: "JsonDatasetConfig | CsvDatasetConfig | ParquetDatasetConfig") -> dict[str, Corpus]:
    """Documents, or pairs, made of the columns of each split's files. Raises DataError like `text_corpora`."""
    skip, delimiter = config.on_invalid == "skip", getattr(config, "delimiter", ",")
    found = {
        split: joined(
            TableFile(
                path, config.source, config.templates, skip, delimiter, classes_of(config), config.condition_names
            )
            for path in split_paths(config, split)
        )
        for split in config.data_files
    }
    return as_divided(config, found)


def smiles_corpora(config: "SmilesDatasetConfig") -> dict[str, Corpus]:
    """Molecules of each split, cleaned as asked. Raises DataError like `text_corpora`, and where rdkit is missing."""
    from data_manager.molecule_writings import Randomised
    from data_manager.molecules import Molecules, rdkit
    from data_manager.scaffolds import divided_by_scaffold
    from data_manager.smiles_types import is_train

    if config.needs_chemistry:
        rdkit()
    found: dict[str, Corpus] = {}
    for split in config.data_files:
        lines = joined(_molecule_file(config, path) for path in split_paths(config, split))
        settings = config.check, config.canonical, config.salts, config.drop_duplicates
        skip, num_proc = config.on_invalid == "skip", config.global_config.num_proc
        found[split] = Molecules(lines, *settings, skip, num_proc, tuple(config.properties or ()))
    if config.split == "scaffold" and config.splits is not None:
        (whole,) = found.values()
        found = divided_by_scaffold(whole, config.splits, config.split_seed)
    else:
        found = as_divided(config, found)
    if not config.randomise:
        return found
    return {
        split: Randomised(corpus, config.randomise, config.randomise_seed) if is_train(split) else corpus
        for split, corpus in found.items()
    }


def _molecule_file(config: "SmilesDatasetConfig", path: Path) -> Corpus:
    names = [suffix.lower() for suffix in path.suffixes]
    skip = config.on_invalid == "skip"
    if config.column is not None:
        delimiter = config.delimiter or ("\t" if ".tsv" in names else ",")
        return TableFile(path, "csv", (f"{{{config.column}}}",), skip, delimiter, None, tuple(config.measured or ()))
    if {".csv", ".tsv"} & set(names):
        raise DataError(f"{path} is a file of columns; say which holds the SMILES, say column: smiles")
    return TextFile(path, "line", skip)


def embedded_corpora(config: EmbeddedDatasetConfig) -> dict[str, Corpus]:
    """Topics in the order of their names; of ten, eight go to train, one to validation and one to test.

    The text is that of the running Python, so it differs a little from one minor version to the next.
    """
    from pydoc_data.topics import topics

    texts: list[str] = [topics[name] for name in sorted(topics)]
    return {
        "train": Listed([text for index, text in enumerate(texts) if index % 10 < 8], "topics of train"),
        "validation": Listed(texts[8::10], "topics of validation"),
        "test": Listed(texts[9::10], "topics of test"),
    }


def split_paths(config: FilesConfig, split: str) -> list[Path]:
    """The files of a split that is no pair; raises DataError for one that is not there."""
    files = config.data_files[split]
    named = [files] if isinstance(files, str) else list(files) if isinstance(files, list) else []
    return [path for file in named for path in files_of(config, file, f"the file of split {split!r},")]


def files_of(config: FilesConfig, name: str, what: str) -> list[Path]:
    """The files of a name, several where `*` or `?` stands in it; raises DataError for none, and for a folder."""
    paths = find_paths(name, config, what)
    for path in paths:
        if path.is_dir():
            raise DataError(
                f"{path} is a folder; name the files in it: [{path / 'a.txt'}, {path / 'b.txt'}], or {path / '*.txt'}"
            )
    return paths


def joined(parts: Iterator[Corpus]) -> Corpus:
    """Several corpora as one."""
    found = tuple(parts)
    return found[0] if len(found) == 1 else Joined(found)


def as_divided(config: CorpusConfig, corpora: Mapping[str, Corpus]) -> dict[str, Corpus]:
    """The corpora, or where `splits` asks for it the only one in parts; raises DataError where there are several."""
    if config.splits is None:
        return dict(corpora)
    if len(corpora) != 1:
        raise DataError(
            f"data set {config.name!r}: splits divide one split, and it has {', '.join(corpora)}; leave splits out"
        )
    return divided(corpora, config.splits, config.split_seed)
