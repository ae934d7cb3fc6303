"""Fuzz the readers of configs and files: no traceback, no hang, no error message without line and column.

    python -m tools.fuzzing --runs 50000 --jobs 2 --seed 0
    python -m tools.fuzzing --replay configs/full_experiment.yml:tree:17

A case is named by the mutated file, the mutator and a seed, so that its name reproduces it.
Only tests import this package; it reports findings and fixes nothing.
"""
