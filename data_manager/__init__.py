"""Data: from corpora to batches. Config types of the `datasets` section, sources, tokenizers and loaders.

This package imports neither model nor training: a batch is a plain dictionary of tensors. The modules of config types
(`*_types.py`) do not import torch.
"""
