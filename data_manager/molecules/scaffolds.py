"""Scaffold splits: molecules with the same scaffold stay in one split, so that a test split has unseen scaffolds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from data_manager.documents import Corpus, HashFile, Notes, Piece
from data_manager.molecules.corpus import canonical_text, import_rdkit


def murcko_scaffold(smiles: str) -> str:
    """Compute the Bemis-Murcko scaffold (J. Med. Chem. 1996) as canonical SMILES without chirality; empty without rings.

    A text that rdkit cannot parse is its own scaffold.
    """
    chem = import_rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        return smiles
    text = str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=False))  # type: ignore[no-untyped-call,unused-ignore]
    scaffold = chem.MolFromSmiles(text)
    return (canonical_text(chem, scaffold) if scaffold is not None else None) or text


def assign_splits(scaffolds: Sequence[str], ratios: Mapping[str, float], seed: int) -> list[str]:
    """Assign each molecule to a split by its scaffold: most common scaffolds first, each to the split furthest below its share.

    The largest split thus gets the common scaffolds, and the others rarer ones; the seed orders equally common scaffolds.
    Shares are met as closely as the sizes of scaffolds allow.
    """
    counts = Counter(scaffolds)
    given = dict.fromkeys(ratios, 0)
    chosen: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], _random_key(name, seed))):
        split = max(ratios, key=lambda split: ratios[split] * len(scaffolds) - given[split])
        given[split] += counts[name]
        chosen[name] = split
    return [chosen[name] for name in scaffolds]


@dataclass
class SplitPlan:
    """Assignment of the molecules of `base` to splits; computed once, at the first read, for all splits."""

    base: Corpus
    ratios: Mapping[str, float]
    seed: int
    _found: list[str] | None = field(default=None, repr=False)

    def splits(self) -> list[str]:
        """Return the split of each molecule, in their order."""
        if self._found is None:
            scaffolds = [murcko_scaffold(piece.texts[0]) for piece in self.base.read(Notes())]
            self._found = assign_splits(scaffolds, self.ratios, self.seed)
        return self._found


@dataclass(frozen=True)
class ScaffoldShare:
    """Molecules whose scaffold is assigned to the split `name`."""

    plan: SplitPlan
    name: str

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the inputs of the base corpus, the settings, and rdkit's version, which determines the scaffolds."""
        import_rdkit()
        import rdkit as package  # type: ignore[import-not-found,unused-ignore]

        plan = self.plan
        settings = ["scaffold", list(plan.ratios.items()), plan.seed, self.name, package.__version__]
        return [plan.base.inputs(hash_file), *settings]

    def shards(self) -> Sequence[Corpus]:
        """Return the whole corpus: the split of a molecule depends on all others."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read the molecules of this split; skipped lines are counted in the first split only."""
        own = notes if self.name == next(iter(self.plan.ratios)) else Notes()
        for piece, split in zip(self.plan.base.read(own), self.plan.splits(), strict=True):
            if split == self.name:
                yield piece


def split_by_scaffold(base: Corpus, ratios: Mapping[str, float], seed: int) -> dict[str, Corpus]:
    """Divide a corpus into splits by scaffold."""
    plan = SplitPlan(base, dict(ratios), seed)
    return {name: ScaffoldShare(plan, name) for name in ratios}


def _random_key(name: str, seed: int) -> bytes:
    return blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
