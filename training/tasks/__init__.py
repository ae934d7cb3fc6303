"""Tasks, one small class a file: from a model and a batch to a loss, metrics and samples.

A task knows no loop, no optimiser and no folder; it imports networks' parts and `diffusion/`, never the engine.
"""
