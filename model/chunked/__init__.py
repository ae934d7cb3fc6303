"""The chunked form of linear attention: features a chunk at a time, recomputed in backward, as one operator.

Tensors alone: nothing here imports a config, a module of networks or diffusion.
"""
