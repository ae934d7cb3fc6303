"""Molecules: SMILES corpora, properties and writings by RDKit, scaffold splits.

RDKit is imported inside functions, so checking a file needs none of it.
"""
