"""Corpora to batches: types of the `datasets` section, sources, tokenizers, loaders. Imports no model."""
