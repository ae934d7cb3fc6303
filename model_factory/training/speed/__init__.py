"""Speed of a training: steps and tokens a second, the wait for batches, memory, and FLOPs for MFU.

The text of the header and of each logged step is in `progress`. The modules import no trainer and no engine.
"""
