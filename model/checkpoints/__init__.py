"""Checkpoints in foreign formats: weights of performer-pytorch.

This package imports the transformer stacks; only the facade imports it.
"""
