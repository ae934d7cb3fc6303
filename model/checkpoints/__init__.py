"""Checkpoints in foreign formats: weights of performer-pytorch.

The wing imports the transformer stacks; nothing imports it but the facade.
"""
