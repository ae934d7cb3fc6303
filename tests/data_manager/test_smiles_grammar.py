"""SMILES grammar: valid and invalid texts, agreement with RDKit's parser on mutated molecules, SELFIES and commas."""

import random
import re

import pytest

from data_manager.molecules.grammar import COMMA, SELFIES, syntax_error
from data_manager.tokenizers.smiles import split_smiles
from tests.real_data import real_data

VALID = r"""
C CCO c1ccccc1 CC(=O)Oc1ccccc1C(=O)O N[C@@H](C)C(=O)O F/C=C\F [Na+].[Cl-] C1.C1 C(=C)=C *C* [*:1]CC[*:2] [13CH4] [H][H]
[2H]O[2H] C%12CC%12 C%(123)CC%(123) C0CC0 C%01CC1 C1CC=1 C=1CC1 C/1CC\1 C-1CC/1 C1(CC1) [nH]1cccc1 [se]1cccc1 [Fe+2] [Fe++]
[O--] [OH3+] [Co@OH12](F)Cl F[S@SP1](F)Cl [U@TB20] C$C C~C C:C B Br BrCl N->[Pt] [Pt]<-N C<-1CC1 [Og] [si]1cccc1 C(.C)C
[NH3]->[Pt](Cl)(Cl)<-[NH3] C1CN(->[Ni](N1)Cl)C
"""
INVALID = r"""
= () > .. . - # % C+ C@C C11 C..C C. .C CCO>>CC=O [R1]CC [Branch1] CC# =CC (C) C=#C C1CC [C [] [[C]] C] X [Xx] [D] [R]
[CH999] [CH10] [C++++++] [C+-] [C+115] [C:] [C@@@H] [C@TH3] [C@SP4] [C@TB21] [C@OH31] [CH3H] [C+H] [12] [sn] A Na Se C?
C1C1 C12CC12 C1(C1) C=1CC-1 C/1CC=1 C(=1)CC1 C(C)1CC1 C%1C%1 C%(123456)CC%(123456) ->C C-> C<- C() C((C)C) C(C)C) C(C(
C(=)C C(C=) C(.)C %11CC%11 1CC1 C=-C C/\C C|C # C１CCCCC１ C٣CCCC٣ [¹³C] [CH２] CCΟ é {} $ ' C,N
"""
MOLECULES = r"""
CC(=O)Oc1ccccc1C(=O)O CN1C=NC2=C1C(=O)N(C)C(=O)N2C C[C@H](N)C(=O)O F/C=C/Cl [NH3]->[Pt](Cl)(Cl)<-[NH3] C1.C1 [13CH4].[Na+]
C1CN(->[Ni](N1)Cl)C *c1ccc(*)cc1 C%12CCCC%12 O=[N+]([O-])c1cc[nH]c1 [O-]S(=O)(=O)c1ccccc1Br CC(C)(C)C#N [CH3:12]C C$C B1OCCO1
"""
MUTATIONS = [
    *"CNOcn()()[]==#-+@H123450%./\\:*$~<>Fl",
    "->",
    "<-",
    "%12",
    "%(1)",
    "[nH]",
    "[C@@H]",
    "Br",
    "[Si]",
    "C1",
    "1",
]
STRICTER = {
    "'.' must be followed by an atom": "a dot at the end is no grammar of OpenSMILES",
    "must follow its atom": "OpenSMILES has ring bonds before branches",
    "has the bonds": "OpenSMILES forbids a ring with two different bonds",
    r"'\\\\' must be followed by": "RDKit takes two backslashes for one, an escape of other languages",
    "is not an atom": "OpenSMILES has one digit of hydrogens, two of charge, numbered chirality, no atomic numbers [#6]",
}
"""Problems of texts that RDKit parses and the grammar refuses, and why."""
LOOSER = r"\(\.|[%+:-]0|\[0[0-9]"
"""Texts that the grammar has and RDKit refuses: a branch that begins with a dot, and numbers with leading zeros."""


@pytest.mark.parametrize("text", VALID.split())
def test_smiles_grammar_accepts(text):
    assert syntax_error(text) is None


@pytest.mark.parametrize("text", [*INVALID.split(), "", " ", "C C"])
def test_smiles_grammar_refuses(text):
    assert syntax_error(text) is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("CC!", "'!' is not a SMILES token"),
        ("C[CH", "'[' is not a SMILES token"),
        ("C[Xx]", "'[Xx]' is not an atom"),
        ("C(C", "'(' without a matching ')'"),
        ("CC)C", "')' without a matching '('"),
        ("C1CC", "ring 1 is not closed"),
        ("C%11CC1", "ring 1 is not closed"),
        ("=C", "a SMILES begins with an atom, not with '='"),
        ("C=", "'=' must be followed by an atom"),
        ("C==C", "'=' must be followed by an atom, not by '='"),
        ("C(C)1CC1", "the ring bond '1' must follow its atom, before the branches"),
        ("C11", "ring 1 joins an atom to itself or to a neighbour"),
        ("C=1CC#1", "ring 1 has the bonds '=' and '#'"),
        ("CCO>>CC=O", "'>' separates the sides of a reaction, and a line is one molecule"),
        ("", "the text is empty"),
        ("[C][=C][Branch1][C]", SELFIES),
        ("[C][Ring1][C].[C]", SELFIES),
        ("CCO,ethanol", COMMA),
        ("CC!,ethanol", "'!' is not a SMILES token"),
        ("[C][C][O]", None),
    ],
)
def test_smiles_syntax_errors(text, problem):
    assert syntax_error(text) == problem


def mutate(smiles, draw):
    """Delete, insert, replace, swap or double one to three tokens or characters."""
    tokens = split_smiles(smiles) if draw.random() < 0.6 else list(smiles)
    for _ in range(draw.choice([1, 1, 2, 3])):
        kind, at = draw.randrange(5), draw.randrange(len(tokens))
        other = draw.randrange(len(tokens))
        if kind == 0 and len(tokens) > 1:
            del tokens[at]
        elif kind == 1:
            tokens.insert(at, draw.choice(MUTATIONS))
        elif kind == 2:
            tokens[at] = draw.choice(MUTATIONS)
        elif kind == 3:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        else:
            tokens.insert(other, tokens[at])
    return "".join(tokens)


def test_smiles_grammar_agrees_with_rdkit():
    chem = pytest.importorskip("rdkit.Chem", reason="needs rdkit, the extra chem")
    draw, molecules = random.Random(0), MOLECULES.split()
    parsed = 0
    with __import__("rdkit").rdBase.BlockLogs():
        for text in (mutate(draw.choice(molecules), draw) for _ in range(8000)):
            problem, readable = syntax_error(text), chem.MolFromSmiles(text, sanitize=False) is not None
            parsed += readable
            if readable and problem is not None:
                assert any(re.search(known, problem) for known in STRICTER), (text, problem)
            if problem is None and not readable:
                assert re.search(LOOSER, text), text
    assert 1500 < parsed < 6500


@pytest.mark.parametrize("name", ["zinc_train", "zinc_test", "polymers_train", "polymers_test"])
def test_smiles_grammar_accepts_real_molecules(name):
    lines = (real_data("smiles") / f"{name}.smi").read_text().split()
    assert [line for line in lines if syntax_error(line)] == []
