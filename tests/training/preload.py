"""Imports of the fork server, made before training processes are forked from it."""

import torch

import data_manager.data_manager  # noqa: F401
import model.transformer.performer  # noqa: F401
import model_factory.training.trainer  # noqa: F401

torch.set_num_threads(1)
try:
    import datasets  # noqa: F401
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import performer_pytorch.performer_pytorch  # noqa: F401
except ImportError:
    pass
