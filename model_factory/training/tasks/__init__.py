"""Tasks, one class per file: compute a loss, metrics and samples from a model and a batch.

A task does not depend on the training loop, the optimiser or the run folder: it imports parts of networks and
`diffusion/`, never the engine.
"""
