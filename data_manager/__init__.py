"""Corpora to batches: types of the `datasets` section, sources, tokenizers, loaders.

Imports neither model nor training: a batch is a dictionary of tensors, whatever is done with it. Importing a module of types
imports no torch.
"""
