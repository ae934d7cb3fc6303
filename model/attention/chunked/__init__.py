"""Chunked linear attention as one operator: features are computed one chunk at a time and again in backward.

It works on tensors alone and imports no config, network or diffusion code.
"""
