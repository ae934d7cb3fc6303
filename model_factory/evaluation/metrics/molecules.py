"""Metrics of molecules by RDKit: validity, uniqueness, novelty and internal diversity of samples."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_manager.molecules.corpus import canonical_text
from model_factory.evaluation.figure import Figure, Report
from model_factory.evaluation.metrics.intervals import Interval, jackknife, wilson
from model_factory.evaluation.rows import training_rows
from model_factory.evaluation.run import LoadedRun
from model_factory.evaluation.sampling.sample import Samples
from model_factory.training.errors import UnfitError

MOST_COMPARED = 2000


def measure_molecules(run: LoadedRun, samples: Samples, seed: int) -> Report:
    """Measure the SMILES in samples against the molecules of the training split."""
    tokenizer = run.require_tokenizer()
    end = tokenizer.eos_token_id
    smiles = [tokenizer.decode(part) for sample in samples.samples for part in split_at(sample.tokens, end)]
    return molecule_figures(smiles, known_molecules(run), seed)


def molecule_figures(smiles: Sequence[str], known: Iterable[str], seed: int) -> Report:
    """Measure validity, uniqueness, novelty and internal diversity, as defined by GuacaMol and MOSES.

        validity            molecules that RDKit can parse / samples
        uniqueness          different canonical molecules / valid molecules
        novelty             different molecules that are not in `known` / different molecules
        internal_diversity  1 - mean Tanimoto similarity over all pairs (i, j) of valid molecules, i = j included,
                            of Morgan fingerprints of radius 2 and 1024 bits
    (arXiv 1811.09621, arXiv 1811.12823). Figures with a denominator of 0 are left out.
    """
    canonical = [name for name in map(canonical_smiles, smiles) if name is not None]
    different = sorted(set(canonical))
    if not smiles:
        return Report(notes=["no sample contains the text of a molecule"])
    report = Report([_share("validity", len(canonical), len(smiles), "samples", seed)])
    if not canonical:
        report.notes.append("no sample is a molecule that RDKit can parse, so only validity is measured")
        return report
    report.figures.append(_uniqueness(canonical, seed))
    with report.attempt("novelty", seed):
        old = {name for name in map(canonical_smiles, known) if name is not None}
        new = sum(name not in old for name in different)
        report.figures.append(_share("novelty", new, len(different), "different molecules", seed))
    with report.attempt("internal_diversity", seed):
        report.figures.append(_diversity(canonical[:MOST_COMPARED], seed))
    if len(canonical) > MOST_COMPARED:
        report.notes.append(f"internal diversity is that of the first {MOST_COMPARED:,} valid molecules")
    return report


@lru_cache(maxsize=1 << 16)  # the training molecules are needed again for each set of samples
def canonical_smiles(smiles: str) -> str | None:
    """Return RDKit's canonical SMILES, None for a molecule that RDKit cannot parse, or not from its own canonical SMILES.

    Raises UnfitError without RDKit.
    """
    chemistry = _rdkit()
    molecule = chemistry.MolFromSmiles(smiles) if smiles else None
    return None if molecule is None or not molecule.GetNumAtoms() else canonical_text(chemistry, molecule)


def split_at(tokens: Sequence[int], end: int) -> list[list[int]]:
    """Split tokens at end tokens; empty parts are left out."""
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == end:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _share(name: str, hits: int, count: int, of: str, seed: int) -> Figure:
    interval = wilson(hits, count)
    return Figure(name, hits / count, interval.low, interval.high, count, of, seed, interval.method)


def _uniqueness(canonical: Sequence[str], seed: int) -> Figure:
    count, copies = len(canonical), Counter(canonical)
    value = len(copies) / count
    left_out = [(len(copies) - (copies[name] == 1)) / max(1, count - 1) for name in canonical]
    return _jackknifed("uniqueness", value, np.array(left_out), seed)


def _diversity(canonical: Sequence[str], seed: int) -> Figure:
    similar = tanimoto(canonical)
    count, total = len(canonical), similar.sum()
    value = 1 - total / count**2
    rest = total - 2 * similar.sum(1) + 1  # without a molecule's row and column, which share the 1 on the diagonal
    left_out = 1 - rest / max(1, count - 1) ** 2
    return _jackknifed("internal_diversity", float(value), left_out, seed)


def tanimoto(smiles: Sequence[str]) -> NDArray[np.float64]:
    """Compute the Tanimoto similarities [n, n] of Morgan fingerprints."""
    from rdkit import DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    chemistry = _rdkit()
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [generator.GetFingerprint(chemistry.MolFromSmiles(one)) for one in smiles]
    return np.array([DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints])


def _jackknifed(name: str, value: float, left_out: NDArray[np.float64], seed: int) -> Figure:
    found = jackknife(value, left_out, what="molecules")
    interval = Interval(max(0.0, found.low), min(1.0, found.high), found.method)
    return Figure(name, value, interval.low, interval.high, len(left_out), "molecules", seed, interval.method)


def known_molecules(run: LoadedRun) -> Iterable[str]:
    """Yield the molecules of the split that the run was trained on."""
    tokenizer = run.require_tokenizer()
    for row in training_rows(run):
        for part in split_at(row["input_ids"], tokenizer.eos_token_id):
            yield tokenizer.decode(part)


def _rdkit() -> Any:
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise UnfitError(
            "molecules are parsed by RDKit, which is not installed: pip install 'model-factory[chem]'"
        ) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # it prints a line for each invalid molecule
    return Chem
