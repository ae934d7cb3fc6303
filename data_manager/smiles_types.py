"""Type of an entry of `datasets` that holds molecules; nothing heavy is imported."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from data_manager.dataset_types import NotEmpty, TokenizerConfig
from data_manager.text_types import FilesConfig, Layout
from yaml_config.strict_model import Violation


class SmilesDatasetConfig(FilesConfig):
    """Molecules as SMILES: files of one a line (what follows a space is its name), or a column of CSV files."""

    source: Literal["smiles"] = "smiles"
    tokenizer: TokenizerConfig = TokenizerConfig(type="smiles")
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
    on_invalid: Literal["error", "skip"] = "skip"
    """A line that is no molecule: is left out, counted and named, or stops the preparation."""

    @property
    def layout(self) -> Layout:
        """How molecules become rows, the default filled in."""
        return self.rows or "whole"

    @property
    def needs_chemistry(self) -> bool:
        """True where rdkit has to be installed."""
        return self.check == "chemistry" or self.canonical or self.salts == "strip"

    def violations(self) -> Iterator[Violation]:
        """A delimiter divides columns."""
        yield from super().violations()
        if self.delimiter is not None and self.column is None:
            message = "only a column of a CSV file has a delimiter"
            yield Violation(message, ("delimiter",), (("column",),), "column: smiles")
