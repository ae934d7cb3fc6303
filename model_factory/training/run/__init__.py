"""The run folder: checkpoints, resume plans, atomic IO, logs, signals and data hashes.

The modules import no engine and no trainer.
"""
