r"""Syntax check of SMILES by the grammar of OpenSMILES (opensmiles.org, version 1.0); no chemistry is computed.

    chain    atom, ring bonds, branches, and again: bond or dot, atom, ring bonds, branches
    atom     of the organic subset, *, or in brackets: isotope, symbol, chirality, hydrogens, charge, class
    ring     bond or none, then 0 to 9, %10 to %99
    branch   ( bond or dot or none, chain )

Beyond OpenSMILES, what RDKit writes is valid: the bonds ->, <- and ~, the rings %(100), the aromatic [si] and [te].
"""

import re
from functools import lru_cache

SELFIES = "this is SELFIES, not SMILES; decode it first, for example with selfies.decoder"
"""Problem of a text of the language SELFIES (Krenn et al. 2020, arXiv 1905.13741)."""
COMMA = "a comma follows the SMILES; set column to read a CSV file, or write a space before the name"
"""Problem of a line of comma-separated values in a file without a column."""

_ELEMENTS = (
    r"A[cglmrstu]|B[aehikr]?|C[adeflmnorsu]?|D[bsy]|E[rsu]|F[elmr]?|G[ade]|H[efgos]?|I[nr]?|Kr?|L[airuv]|M[cdgnot]"
    r"|N[abdehiop]?|O[gs]?|P[abdmortu]?|R[abefghnu]|S[bcegimnr]?|T[abcehilms]|U|V|W|Xe|Yb?|Z[nr]"
)
_CHIRALITY = r"@(?:@|TH[12]|AL[12]|SP[1-3]|TB(?:[1-9]|1[0-9]|20)|OH(?:[1-9]|[12][0-9]|30))?"
_BRACKET_ATOM = re.compile(
    rf"\[[0-9]{{0,5}}(?:{_ELEMENTS}|[bcnop]|s[ei]?|as|te|\*)(?:{_CHIRALITY})?(?:H[0-9]?)?"
    r"(?:\+\+|--|[+-][0-9]{0,2})?(?::[0-9]{1,9})?\]"
)
_BOND = r"->|<-|[-=#$:/\\~]"
_TOKENS = re.compile(
    rf"\[[^\[\]]*\]|Br|Cl|[BCNOPSFIbcnops*().]|(?:{_BOND})?(?:[0-9]|%[0-9]{{2}}|%\([0-9]{{1,5}}\))|{_BOND}|.", re.DOTALL
)
_RING = re.compile(rf"({_BOND})?%?\(?([0-9]+)\)?")
_SELFIES = re.compile(r"(?:\[[^\[\]]+\]\.?)+")
_SELFIES_ONLY = re.compile(r"\[[=#/\\][A-Z]|(?:Branch|Ring)[1-3]\]")

_ATOM, _RING_BOND, _JOIN, _DOT, _OPEN, _CLOSE, _OTHER = range(7)
_START = _OTHER
_AFTER_ATOM = (_ATOM, _RING_BOND, _JOIN, _DOT, _OPEN, _CLOSE)
_NEXT: tuple[tuple[int, ...], ...] = (
    _AFTER_ATOM,
    _AFTER_ATOM,
    (_ATOM,),
    (_ATOM,),
    (_ATOM, _JOIN, _DOT),
    (_ATOM, _JOIN, _DOT, _OPEN, _CLOSE),
    (_ATOM,),
)
"""Kinds of tokens that may follow each kind; the last row is the start of the text."""
_SINGLE = "-/\\"


def syntax_error(text: str) -> str | None:
    """Return the first syntax error of a SMILES (tokens, their order, branches, rings), or None."""
    problem = _grammar_error(text)
    if problem is not None and _SELFIES.fullmatch(text) and _SELFIES_ONLY.search(text):
        return SELFIES
    if problem is not None and "," in text and _grammar_error(text.partition(",")[0]) is None:
        return COMMA
    return problem


def _grammar_error(text: str) -> str | None:
    last, before, current = _START, "", -1
    parents: list[int] = []  # for each atom the atom that it is bonded to on its left, or -1
    branches: list[int] = []
    open_rings: dict[int, tuple[int, str]] = {}
    bonded: set[tuple[int, int]] = set()
    for token in _TOKENS.findall(text):
        kind, number, bond = _classify(token)
        if kind not in _NEXT[last]:
            return _order_error(last, before, kind, token)
        if kind == _ATOM:
            parents.append(-1 if last == _DOT else current)
            current = len(parents) - 1
        elif kind == _OPEN:
            branches.append(current)
        elif kind == _CLOSE:
            if not branches:
                return "')' without a matching '('"
            current = branches.pop()
        elif kind == _RING_BOND:
            if number not in open_rings:
                open_rings[number] = current, bond
            else:
                start, first_bond = open_rings.pop(number)
                if start == current or parents[current] == start or (start, current) in bonded:
                    return f"ring {number} joins an atom to itself or to a neighbour"
                if first_bond != bond and first_bond and bond and not (first_bond in _SINGLE and bond in _SINGLE):
                    return f"ring {number} has the bonds {first_bond!r} and {bond!r}"
                bonded.add((start, current))
        last, before = kind, token
    if last in (_START, _JOIN, _DOT):
        return f"{before!r} must be followed by an atom" if before else "the text is empty"
    if branches:
        return "'(' without a matching ')'"
    return f"ring {min(open_rings)} is not closed" if open_rings else None


@lru_cache(maxsize=1 << 12)
def _classify(token: str) -> tuple[int, int, str]:
    """Return the kind of a token, and of a ring bond its number and its bond."""
    if token[0] == "[":
        return (_ATOM if _BRACKET_ATOM.fullmatch(token) else _OTHER), 0, ""
    if token == "Br" or token == "Cl" or token in "BCNOPSFIbcnops*":
        return _ATOM, 0, ""
    if token in "().":
        return {"(": _OPEN, ")": _CLOSE, ".": _DOT}[token], 0, ""
    ring = _RING.fullmatch(token)
    if ring is not None:
        return _RING_BOND, int(ring[2]), ring[1] or ""
    return (_JOIN if re.fullmatch(_BOND, token) else _OTHER), 0, ""


def _order_error(last: int, before: str, kind: int, token: str) -> str:
    """Return the message of a token that is invalid, or that may not follow the token `before`."""
    if token == ">":
        return "'>' separates the sides of a reaction, and a line is one molecule"
    if kind == _OTHER:
        return f"{token!r} is not {'an atom' if len(token) > 1 else 'a SMILES token'}"
    if last == _START:
        return f"a SMILES begins with an atom, not with {token!r}"
    if last == _CLOSE:
        return f"the ring bond {token!r} must follow its atom, before the branches"
    return f"{before!r} must be followed by an atom, not by {token!r}"
