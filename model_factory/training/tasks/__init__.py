"""Tasks, one class per file: compute a loss, metrics and samples from a model and a batch.

A task knows nothing of loops, optimisers and folders; it imports parts of networks and `diffusion/`, never the engine.
"""
