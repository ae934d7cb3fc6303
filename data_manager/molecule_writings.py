"""Other writings of molecules: a molecule has many SMILES, and one that has seen several learns the grammar sooner."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from data_manager.documents import Corpus, HashFile, Notes, Piece
from data_manager.molecules import rdkit


@dataclass(frozen=True)
class Randomised:
    """The molecules of `base`, each followed by `count` random writings of it (Arus-Pous et al. 2019).

    What is written depends on the molecule's text and the seed alone. A text that rdkit cannot read stays alone.
    """

    base: Corpus
    count: int
    seed: int

    def inputs(self, hash_file: HashFile) -> Any:
        """Those of the molecules, the settings, and rdkit's version, which decides the writings."""
        rdkit()
        import rdkit as package  # type: ignore[import-not-found,unused-ignore]

        return [self.base.inputs(hash_file), "randomised", self.count, self.seed, package.__version__]

    def shards(self) -> Sequence[Corpus]:
        """Those of the molecules."""
        return [replace(self, base=shard) for shard in self.base.shards()]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Each molecule, and behind it its other writings, with its properties."""
        for piece in self.base.read(notes):
            yield piece
            for text in random_writings(piece.texts[0], self.count, self.seed):
                yield piece._replace(texts=(text,))


def random_writings(smiles: str, count: int, seed: int) -> list[str]:
    """`count` random SMILES of a molecule, the same for the same text and seed; none of what rdkit cannot read."""
    chem = rdkit()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        return []
    digest = blake2b(f"{seed} {smiles}".encode(), digest_size=4).digest()
    own = int.from_bytes(digest, "big") % (2**31 - 1) + 1  # rdkit takes 0 and less for no seed
    return list(chem.MolToRandomSmilesVect(molecule, count, randomSeed=own))
