"""Encoders and decoders around a latent vector: the published connectors and the parts that they are presets of.

Only the modules that build or load networks import transformers; checking a config imports none of them.
"""
