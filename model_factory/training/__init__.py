"""Training: types of the `training` and `generation` sections, the engine around transformers' Trainer, run folders.

This package imports model, diffusion, data_manager and experiment, never evaluation or pages. Importing a module of types
imports no torch. Only `tasks/` knows how a kind of model processes a batch.
"""
