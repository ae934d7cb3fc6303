"""Attention: the multi-head layer, cores, feature maps, chunked linear attention and decoding state.

The wing imports no stack, no diffusion and no data.
"""
