"""Molecular properties computed by rdkit, by the names of `properties`; a model can be conditioned on them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from data_manager.smiles_types import Property


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
