"""Attention: the multi-head layer, cores, feature maps, chunked linear attention and decoding state.

This package imports no transformer stack, no diffusion and no data.
"""
