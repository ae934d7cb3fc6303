"""Speed of a training: steps and tokens a second, the wait for batches, memory, and FLOPs for MFU.

The modules import the task's types, no trainer and no engine.
"""
