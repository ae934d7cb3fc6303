"""Read the texts and columns of a molecule data set from its files."""

from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.documents import Corpus
from data_manager.errors import DataError
from data_manager.molecules.corpus import Molecules, RandomSmiles, import_rdkit
from data_manager.molecules.scaffolds import split_by_scaffold
from data_manager.molecules.types import is_train
from data_manager.text.corpora import apply_splits, concatenate, split_paths
from data_manager.text.files import TextFile
from data_manager.text.tables import TableFile

if TYPE_CHECKING:
    from data_manager.molecules.types import SmilesDatasetConfig


def smiles_corpora(config: "SmilesDatasetConfig") -> dict[str, Corpus]:
    """Return the cleaned molecules of each split; raise DataError for a missing file, or if rdkit is missing."""
    if config.needs_chemistry:
        import_rdkit()
    found: dict[str, Corpus] = {}
    for split in config.data_files:
        lines = concatenate(_molecule_file(config, path) for path in split_paths(config, split))
        settings = config.check, config.canonical, config.salts, config.drop_duplicates
        skip, num_proc = config.on_invalid == "skip", config.global_config.num_proc
        found[split] = Molecules(lines, *settings, skip, num_proc, tuple(config.properties or ()))
    if config.split == "scaffold" and config.splits is not None:
        (whole,) = found.values()
        found = split_by_scaffold(whole, config.splits, config.split_seed)
    else:
        found = apply_splits(config, found)
    if not config.randomise:
        return found
    return {
        split: RandomSmiles(corpus, config.randomise, config.randomise_seed) if is_train(split) else corpus
        for split, corpus in found.items()
    }


def _molecule_file(config: "SmilesDatasetConfig", path: Path) -> Corpus:
    names = [suffix.lower() for suffix in path.suffixes]
    skip = config.on_invalid == "skip"
    if config.column is not None:
        delimiter = config.delimiter or ("\t" if ".tsv" in names else ",")
        return TableFile(path, "csv", (f"{{{config.column}}}",), skip, delimiter, None, tuple(config.measured or ()))
    if {".csv", ".tsv"} & set(names):
        raise DataError(f"{path} is a CSV file; name the column of SMILES, for example column: smiles")
    return TextFile(path, "line", skip)
