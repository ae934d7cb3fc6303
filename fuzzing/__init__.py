"""Mutated configs and files against everything that reads them: no traceback, no hang, no message without a place.

    python -m fuzzing --runs 50000 --jobs 2 --seed 0
    python -m fuzzing --replay configs/full_experiment.yml:tree:17

A case is named by what is mutated, how, and a seed; the name is all that is needed to make it again.
No room imports it but tests; nothing here mends what it finds.
"""
