"""Transformer stacks: encoder, decoder and encoder-decoder, their inputs, norms and generation.

This package imports `model.attention`; it imports no diffusion and no data.
"""
