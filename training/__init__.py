"""Training: types of the `training` and `generation` sections, the engine around transformers' Trainer, run folders.

Imports everything below it (model, diffusion, data_manager, experiment), and never evaluation or pages. Importing a module of
types imports no torch. What a kind of model does with a batch is in `tasks/`, and nowhere else.
"""
