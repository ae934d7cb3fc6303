"""Cleaning of molecules: validate them, strip salts, canonicalise, and drop duplicates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal, NamedTuple

from data_manager.documents import Corpus, HashFile, Invalid, Notes, Piece
from data_manager.errors import DataError
from data_manager.molecules.grammar import COMMA, SELFIES, syntax_error
from data_manager.molecules.types import Property
from data_manager.rows.parallel import ordered_map

# Molecular properties computed by rdkit, by the names of `properties`; a model can be conditioned on them.


def compute_properties(molecule: Any, names: Sequence[Property]) -> tuple[float, ...]:
    """Compute the named properties of an rdkit molecule, in their order.

        logp            Crippen's octanol-water partition coefficient (Wildman and Crippen 1999)
        qed             quantitative estimate of drug-likeness, 0 to 1 (Bickerton et al. 2012)
        weight          average mass in dalton
        tpsa            topological polar surface area in square ångström (Ertl et al. 2000)
        fraction_csp3   share of carbon atoms that are sp3
        charge          formal charge
    and counts: rings and aromatic_rings (of the smallest set of smallest rings), heavy_atoms, donors and acceptors (of
    hydrogen bonds), rotatable_bonds.
    """
    known = _functions()
    return tuple(float(known[name](molecule)) for name in names)


@cache
def _functions() -> dict[str, Callable[[Any], float]]:
    from rdkit.Chem import QED, Crippen, Descriptors, GetFormalCharge, rdMolDescriptors

    return {
        "logp": Crippen.MolLogP,  # type: ignore[attr-defined,unused-ignore]
        "qed": QED.qed,
        "weight": Descriptors.MolWt,  # type: ignore[attr-defined,unused-ignore]
        "tpsa": rdMolDescriptors.CalcTPSA,
        "rings": rdMolDescriptors.CalcNumRings,
        "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
        "heavy_atoms": rdMolDescriptors.CalcNumHeavyAtoms,
        "donors": rdMolDescriptors.CalcNumHBD,
        "acceptors": rdMolDescriptors.CalcNumHBA,
        "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
        "fraction_csp3": rdMolDescriptors.CalcFractionCSP3,
        "charge": GetFormalCharge,
    }


_BATCH = 512
_GRAMMAR = "opensmiles 1.0"
"""Part of the cache's identity; change it when other texts become valid."""
_MAX_REWRITES = 16


class Cleaned(NamedTuple):
    """A SMILES with its properties, or None with a problem."""

    text: str | None
    problem: str = ""
    properties: tuple[float, ...] = ()
    rewritten: bool = False


def import_rdkit() -> Any:
    """Import `rdkit.Chem` with its log disabled; raise DataError if it is not installed."""
    try:
        from rdkit import Chem, RDLogger  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise DataError(
            "check: chemistry, canonical, salts: strip, properties, split: scaffold and randomise need rdkit "
            f"({error}); pip install rdkit, or remove these keys"
        ) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined,unused-ignore]  # its messages lack file and line
    return Chem


@dataclass(frozen=True)
class Molecules:
    """Corpus of the lines of `base` as molecules."""

    base: Corpus
    check: Literal["syntax", "chemistry"]
    canonical: bool
    salts: Literal["keep", "strip"]
    drop_duplicates: bool
    skip_invalid: bool
    num_proc: int = 1
    properties: tuple[Property, ...] = ()

    def inputs(self, hash_file: HashFile) -> Any:
        """Return the inputs of the base corpus, the settings, and rdkit's version if it determines the result."""
        version = ""
        if self._needs_rdkit:
            import_rdkit()
            import rdkit as package  # type: ignore[import-not-found,unused-ignore]

            version = package.__version__
        settings = [self.check, self.canonical, self.salts, self.drop_duplicates, self.skip_invalid, version, _GRAMMAR]
        found = [self.base.inputs(hash_file), "molecules", *settings]
        return [*found, self.properties] if self.properties else found

    def shards(self) -> Sequence[Corpus]:
        """Return the shards of the base corpus; a single one if duplicates are dropped."""
        if self.drop_duplicates:
            return [self]
        return [replace(self, base=shard, num_proc=1) for shard in self.base.shards()]

    @property
    def _needs_rdkit(self) -> bool:
        return self.check == "chemistry" or self.canonical or self.salts == "strip" or bool(self.properties)

    def read(self, notes: Notes) -> Iterator[Piece]:
        """Read the valid molecules; skip duplicates if `drop_duplicates` is set."""
        invalid = Invalid(self.skip_invalid, notes)
        seen: set[bytes] = set()
        num_proc = self.num_proc if self._needs_rdkit else 1
        for pieces, found in ordered_map(self.clean, _batches(self.base.read(notes)), num_proc, "molecules"):
            for piece, (text, problem, properties, rewritten) in zip(pieces, found, strict=True):
                if text is None:
                    other = problem in (COMMA, SELFIES)
                    detail = f"{problem}{'; got' if other else ' in'} {_first_word(piece)!r}"
                    invalid(piece.place, problem if other else "invalid SMILES", detail)
                elif self.drop_duplicates and _is_known(text, seen):
                    notes.add("duplicate", piece.place)
                else:
                    cond = (*properties, *piece.cond)
                    yield piece._replace(texts=(text,), cond=cond, rewritten=rewritten)

    def clean(self, pieces: Sequence[Piece]) -> list[Cleaned]:
        """Clean a batch of molecules; return the text or the problem of each."""
        return [self._clean(_first_word(piece)) for piece in pieces]

    def _clean(self, text: str) -> Cleaned:
        problem = syntax_error(text)
        if problem or not self._needs_rdkit:
            return Cleaned(None, problem) if problem else Cleaned(text)
        chem = import_rdkit()
        molecule = chem.MolFromSmiles(text)
        if molecule is None:
            return Cleaned(None, _chemical_problem(chem, text))
        given = text
        if self.salts == "strip" and "." in text:
            # the largest fragment by heavy atoms; the first of equals
            parts = chem.GetMolFrags(molecule, asMols=True)
            molecule = max(parts, key=lambda part: part.GetNumHeavyAtoms())
            text = chem.MolToSmiles(molecule, canonical=False)
        if self.canonical:
            canonical = canonical_text(chem, molecule)
            if canonical is None:
                return Cleaned(None, "a molecule whose canonical form rdkit cannot read")
            text = canonical
        properties = compute_properties(molecule, self.properties) if self.properties else ()
        return Cleaned(text, properties=properties, rewritten=text != given)


def canonical_text(chem: Any, molecule: Any) -> str | None:
    """Write a molecule as rdkit's canonical SMILES, read and written again until the text no longer changes.

    One pass is not enough: rdkit reads some of its own texts as a molecule that it writes differently. If texts alternate,
    the smallest of them is returned; None if rdkit cannot read its own text.
    """
    texts = [str(chem.MolToSmiles(molecule))]
    for _ in range(_MAX_REWRITES):
        again = chem.MolFromSmiles(texts[-1])
        if again is None:
            return None
        text = str(chem.MolToSmiles(again))
        if text in texts:
            return min(texts[texts.index(text) :])
        texts.append(text)
    return texts[-1]


def _chemical_problem(chem: Any, text: str) -> str:
    """Return rdkit's message about an invalid molecule, if it has one."""
    molecule = chem.MolFromSmiles(text, sanitize=False)
    problems = chem.DetectChemistryProblems(molecule) if molecule is not None else ()
    return problems[0].Message() if problems else "not a molecule"


def _first_word(piece: Piece) -> str:
    # the rest of the line is the name of the molecule
    return piece.texts[0].split(None, 1)[0]


def _is_known(text: str, seen: set[bytes]) -> bool:
    digest = blake2b(text.encode(), digest_size=12).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    while batch := list(islice(pieces, _BATCH)):
        yield batch


# SMILES randomisation: a molecule has many SMILES, and training on several of them teaches the grammar sooner.


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
                yield piece._replace(texts=(text,), rewritten=True)


def random_smiles(smiles: str, count: int, seed: int) -> list[str]:
    """Return `count` random SMILES of a molecule, deterministic in text and seed; empty if rdkit cannot parse it."""
    chem = import_rdkit()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        return []
    digest = blake2b(f"{seed} {smiles}".encode(), digest_size=4).digest()
    rdkit_seed = int.from_bytes(digest, "big") % (2**31 - 1) + 1  # rdkit treats a seed of 0 or less as unset
    return list(chem.MolToRandomSmilesVect(molecule, count, randomSeed=rdkit_seed))
