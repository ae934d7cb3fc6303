"""SMILES randomisation: a molecule has many SMILES, and training on several of them teaches the grammar sooner."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from data_manager.documents import Corpus, HashFile, Notes, Piece
from data_manager.molecules import import_rdkit


@dataclass(frozen=True)
class RandomSmiles:
    """Molecules of `base`, each followed by `count` random SMILES of it (Arus-Pous et al. 2019).

    The random SMILES depend on the molecule's text and the seed only. A text that rdkit cannot parse gets none.
    """

    base: Corpus
    count: int
    seed: int

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the inputs of the base corpus, the settings, and rdkit's version, which determines the SMILES."""
        import_rdkit()
        import rdkit as package  # type: ignore[import-not-found,unused-ignore]

        return [self.base.inputs(hash_file), "randomised", self.count, self.seed, package.__version__]

    def shards(self) -> Sequence[Corpus]:
        """Return the shards of the base corpus."""
        return [replace(self, base=shard) for shard in self.base.shards()]

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Yield each molecule, followed by its random SMILES with the same properties."""
        for piece in self.base.read(notes):
            yield piece
            for text in random_smiles(piece.texts[0], self.count, self.seed):
                yield piece._replace(texts=(text,))


def random_smiles(smiles: str, count: int, seed: int) -> list[str]:
    """Return `count` random SMILES of a molecule, deterministic in text and seed; empty if rdkit cannot parse it."""
    chem = import_rdkit()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        return []
    digest = blake2b(f"{seed} {smiles}".encode(), digest_size=4).digest()
    rdkit_seed = int.from_bytes(digest, "big") % (2**31 - 1) + 1  # rdkit treats a seed of 0 or less as unset
    return list(chem.MolToRandomSmilesVect(molecule, count, randomSeed=rdkit_seed))
