"""Splits by scaffold: molecules that share one never stand in two splits, so that a test asks for new ones."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from data_manager.documents import Corpus, HashFile, Notes, Piece
from data_manager.molecules import rdkit


def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold (J. Med. Chem. 1996) as canonical SMILES without chirality; empty without rings.

    A text that rdkit cannot read is a scaffold of its own.
    """
    chem = rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        return smiles
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=False))  # type: ignore[no-untyped-call,unused-ignore]


def splits_of(scaffolds: Sequence[str], ratios: Mapping[str, float], seed: int) -> list[str]:
    """The split of each molecule, by its scaffold: the commonest first, each into the split furthest behind its share.

    The largest split so gets the common scaffolds, and the others rarer ones; of those equally common, the seed decides
    which come first. Shares hold as nearly as the sizes of scaffolds let them.
    """
    counts = Counter(scaffolds)
    given = dict.fromkeys(ratios, 0)
    chosen: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], _drawn(name, seed))):
        split = max(ratios, key=lambda split: ratios[split] * len(scaffolds) - given[split])
        given[split] += counts[name]
        chosen[name] = split
    return [chosen[name] for name in scaffolds]


@dataclass
class Plan:
    """Which molecule of `base` goes where; found once, at the first reading, for all splits."""

    base: Corpus
    ratios: Mapping[str, float]
    seed: int
    _found: list[str] | None = field(default=None, repr=False)

    def splits(self) -> list[str]:
        """The split of each molecule, in their order."""
        if self._found is None:
            scaffolds = [scaffold(piece.texts[0]) for piece in self.base.read(Notes())]
            self._found = splits_of(scaffolds, self.ratios, self.seed)
        return self._found


@dataclass(frozen=True)
class ScaffoldShare:
    """The molecules whose scaffold goes to the split `name`."""

    plan: Plan
    name: str

    def inputs(self, hash_file: HashFile) -> Any:
        """Those of the whole, and the division; with rdkit's version, which decides the scaffolds."""
        rdkit()
        import rdkit as package  # type: ignore[import-not-found,unused-ignore]

        plan = self.plan
        settings = ["scaffold", list(plan.ratios.items()), plan.seed, self.name, package.__version__]
        return [plan.base.inputs(hash_file), *settings]

    def shards(self) -> Sequence[Corpus]:
        """Itself: where a molecule goes depends on all."""
        return [self]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """The molecules of this split. What is left out of the whole is counted in the first split alone."""
        own = notes if self.name == next(iter(self.plan.ratios)) else Notes()
        for piece, split in zip(self.plan.base.read(own), self.plan.splits(), strict=True):
            if split == self.name:
                yield piece


def divided_by_scaffold(base: Corpus, ratios: Mapping[str, float], seed: int) -> dict[str, Corpus]:
    """The one corpus in splits."""
    plan = Plan(base, dict(ratios), seed)
    return {name: ScaffoldShare(plan, name) for name in ratios}


def _drawn(name: str, seed: int) -> bytes:
    return blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
