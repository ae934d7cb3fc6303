"""Config type of data sets of molecules; nothing heavy is imported."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_manager.dataset_types import NotEmpty, TokenizerConfig, not_empty
from data_manager.row_types import Layout
from data_manager.text.types import FilesConfig
from data_manager.tokenizers.registry import DEFAULT_TOKENIZER, TOKENIZERS
from model_factory.yaml_config.from_registry import FromRegistry
from model_factory.yaml_config.strict_model import StrictModel, Violation

Property = Literal[
    "logp",
    "qed",
    "weight",
    "tpsa",
    "rings",
    "aromatic_rings",
    "heavy_atoms",
    "donors",
    "acceptors",
    "rotatable_bonds",
    "fraction_csp3",
    "charge",
]
"""Properties that rdkit computes, see `data_manager.molecules.corpus`."""


class SmilesDatasetConfig(FilesConfig):
    """Molecules as SMILES: files with one a line (text after a space is a name), or a column of CSV files."""

    source: Literal["smiles"] = "smiles"
    tokenizer: Annotated[StrictModel, FromRegistry(TOKENIZERS, default=DEFAULT_TOKENIZER)] = TokenizerConfig(
        type="smiles"
    )
    """Tokenizer of the SMILES."""
    rows: Layout | None = None
    """By default whole: one molecule in each row, between bos and eos."""
    column: NotEmpty | None = None
    """Column of CSV files (their names end in .csv or .tsv) that holds the SMILES."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Separator of values in a CSV file; by default a tab in .tsv files and a comma in others."""
    check: Literal["syntax", "chemistry"] = "syntax"
    """Validation of a line: the grammar of OpenSMILES only, or a molecule that rdkit can parse (needs rdkit)."""
    canonical: bool = False
    """Write each molecule in rdkit's canonical form, repeated until it no longer changes (needs rdkit)."""
    salts: Literal["keep", "strip"] = "keep"
    """strip keeps the largest of the fragments separated by dots (needs rdkit)."""
    drop_duplicates: bool = False
    """Drop molecules that occurred before in their split: the same text, or with canonical the same molecule."""
    properties: Annotated[list[Property], AfterValidator(not_empty)] | None = None
    """Properties that rdkit computes for each molecule, the `cond` of its row: `[logp, qed]` (needs rdkit)."""
    measured: Annotated[list[NotEmpty], AfterValidator(not_empty)] | None = None
    """Columns of the CSV files with measured properties, in `cond` after the computed ones."""
    split: Literal["random", "scaffold"] = "random"
    """Method of `splits`: by molecule, or by Bemis-Murcko scaffold, so that molecules with the same scaffold stay in one
    split; the most common scaffolds go to the largest split (needs rdkit)."""
    randomise: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of additional random SMILES of each molecule, in the split `train` only (needs rdkit). [writings]"""
    randomise_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the random SMILES. [1]"""
    on_invalid: Literal["error", "skip"] = "skip"
    """An invalid line: skip, count and report it, or stop the preparation."""

    @property
    def layout(self) -> Layout:
        """Layout of rows, with the default filled in."""
        return self.rows or "whole"

    @property
    def needs_chemistry(self) -> bool:
        """True if rdkit must be installed."""
        return self.reads_molecules or self.split == "scaffold" or self.randomise > 0

    @property
    def reads_molecules(self) -> bool:
        """True if rdkit parses each line."""
        return self.check == "chemistry" or self.canonical or self.salts == "strip" or self.properties is not None

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of the numbers in `cond`."""
        return (*(self.properties or ()), *(self.measured or ()))

    def violations(self) -> Iterator[Violation]:
        """Check that keys of CSV files need a column, and that properties are unique and of whole molecules."""
        yield from super().violations()
        if self.delimiter is not None and self.column is None:
            message = "only a column of a CSV file has a delimiter"
            yield Violation(message, ("delimiter",), (("column",),), "column: smiles")
        if self.measured is not None and self.column is None:
            message = "measured names columns of a CSV file; column is not set"
            yield Violation(message, ("measured",), (("column",),), "column: smiles")
        for key in ("properties", "measured"):
            names = getattr(self, key) or []
            double = next((name for name in names if names.count(name) > 1), None)
            if double is not None:
                yield Violation(f"{key} names {double!r} twice", (key,), (), "keep one of them")
        if self.condition_names and self.layout != "whole":
            message = f"properties need whole molecules; rows are {self.layout}"
            yield Violation(message, ("rows",), (("properties",), ("measured",)), "remove it")
        if self.infill is not None:
            message = "a hole begins and ends at any character, and a part of a SMILES need not be one"
            yield Violation(message, ("infill",), (("source",),), "remove it")
        yield from self._split_violations()

    def _split_violations(self) -> Iterator[Violation]:
        """Check that a scaffold split has splits, and that randomise has a split `train`."""
        if self.split != "random" and self.splits is None:
            message = "split needs splits, which it divides"
            yield Violation(message, ("split",), (("splits",),), "splits: {train: 0.9, test: 0.1}")
        names = list(self.splits or self.data_files)
        if self.randomise and not any(map(is_train, names)):
            message = f"randomise needs a split train; the splits are {', '.join(names)}"
            yield Violation(message, ("randomise",), (("splits",), ("data_files",)), "rename one of them to train")
        if self.randomise_seed and not self.randomise:
            yield Violation("randomise_seed needs randomise", ("randomise_seed",), (("randomise",),), "randomise: 1")


def is_train(split: str) -> bool:
    """Return True if a split is a training split by its name."""
    return split.startswith("train")
