"""Tokenizers: characters, bytes, words, BPE, SMILES, Hugging Face, and how they are trained, saved and loaded.

This package imports neither corpora nor rows.
"""
