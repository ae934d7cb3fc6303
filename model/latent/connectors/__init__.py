"""Encoders and decoders around a latent vector: the published connectors and the parts that they are presets of.

The wing imports transformers inside the modules that need it; checking a file needs none of them.
"""
