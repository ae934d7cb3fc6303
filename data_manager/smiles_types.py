"""Type of an entry of `datasets` that holds molecules; nothing heavy is imported."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_manager.dataset_types import NotEmpty, TokenizerConfig, not_empty
from data_manager.text_types import FilesConfig, Layout
from data_manager.tokenizer_registry import DEFAULT_TOKENIZER, TOKENIZERS
from yaml_config.strict_model import StrictModel, Violation
from yaml_config.tagged import FromRegistry

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
"""What rdkit knows of a molecule, see `data_manager.molecule_properties`."""


class SmilesDatasetConfig(FilesConfig):
    """Molecules as SMILES: files of one a line (what follows a space is its name), or a column of CSV files."""

    source: Literal["smiles"] = "smiles"
    tokenizer: Annotated[StrictModel, FromRegistry(TOKENIZERS, default=DEFAULT_TOKENIZER)] = TokenizerConfig(
        type="smiles"
    )
    """How SMILES become token ids."""
    rows: Layout | None = None
    """whole where left out: a molecule a row, with a token before and behind it."""
    column: NotEmpty | None = None
    """Column of CSV files (their names end in .csv or .tsv) that holds the SMILES."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between two values of a CSV file; a tabulator in .tsv files and a comma in others if left out."""
    check: Literal["syntax", "chemistry"] = "syntax"
    """What a valid line is: one that can be read as SMILES, or one whose molecule can be (needs rdkit)."""
    canonical: bool = False
    """Write each molecule in rdkit's canonical form (needs rdkit)."""
    salts: Literal["keep", "strip"] = "keep"
    """strip keeps the largest of the parts that a dot divides (needs rdkit)."""
    drop_duplicates: bool = False
    """Leave a molecule out that has come before in its split: the same text, or with canonical the same molecule."""
    properties: Annotated[list[Property], AfterValidator(not_empty)] | None = None
    """Properties that rdkit computes for each molecule, the `cond` of its row: `[logp, qed]` (needs rdkit)."""
    measured: Annotated[list[NotEmpty], AfterValidator(not_empty)] | None = None
    """Columns of the CSV files with measured properties, in `cond` behind those that are computed."""
    split: Literal["random", "scaffold"] = "random"
    """How `splits` divides: molecule by molecule, or so that molecules of one Bemis-Murcko scaffold stay together, the
    commonest scaffolds first in the largest split (needs rdkit)."""
    randomise: Annotated[int, Field(ge=0, le=1000)] = 0
    """So many other writings of each molecule beside its own, in the split `train` alone (needs rdkit). [writings]"""
    randomise_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of those writings. [1]"""
    on_invalid: Literal["error", "skip"] = "skip"
    """A line that is no molecule: is left out, counted and named, or stops the preparation."""

    @property
    def layout(self) -> Layout:
        """How molecules become rows, the default filled in."""
        return self.rows or "whole"

    @property
    def needs_chemistry(self) -> bool:
        """True where rdkit has to be installed."""
        return self.reads_molecules or self.split == "scaffold" or self.randomise > 0

    @property
    def reads_molecules(self) -> bool:
        """True where a line has to be a molecule that rdkit can read."""
        return self.check == "chemistry" or self.canonical or self.salts == "strip" or self.properties is not None

    @property
    def condition_names(self) -> tuple[str, ...]:
        """What the numbers of `cond` are."""
        return (*(self.properties or ()), *(self.measured or ()))

    def violations(self) -> Iterator[Violation]:
        """A delimiter divides columns."""
        yield from super().violations()
        if self.delimiter is not None and self.column is None:
            message = "only a column of a CSV file has a delimiter"
            yield Violation(message, ("delimiter",), (("column",),), "column: smiles")
        if self.measured is not None and self.column is None:
            message = "what is measured stands in columns of a CSV file"
            yield Violation(message, ("measured",), (("column",),), "column: smiles")
        for key in ("properties", "measured"):
            names = getattr(self, key) or []
            double = next((name for name in names if names.count(name) > 1), None)
            if double is not None:
                yield Violation(f"{key} names {double!r} twice", (key,), (), "keep one of them")
        if self.condition_names and self.layout != "whole":
            message = f"properties are of whole molecules, and rows are {self.layout}"
            yield Violation(message, ("rows",), (("properties",), ("measured",)), "leave it out")
        yield from self._split_violations()

    def _split_violations(self) -> Iterator[Violation]:
        """Scaffolds have something to divide, and writings a split to go to."""
        if self.split != "random" and self.splits is None:
            message = "split says how `splits` divides, and there are none"
            yield Violation(message, ("split",), (("splits",),), "splits: {train: 0.9, test: 0.1}")
        names = list(self.splits or self.data_files)
        if self.randomise and not any(map(is_train, names)):
            message = f"randomise is of the split train, and the splits are {', '.join(names)}"
            yield Violation(message, ("randomise",), (("splits",), ("data_files",)), "call one of them train")
        if self.randomise_seed and not self.randomise:
            yield Violation("there are no writings to draw", ("randomise_seed",), (("randomise",),), "randomise: 1")


def is_train(split: str) -> bool:
    """Whether a split is one that is trained on where a file does not say which."""
    return split.startswith("train")
