"""Transformer stacks: encoder, decoder and encoder-decoder, their inputs, norms and generation.

The wing imports attention; it knows no diffusion and no data.
"""
