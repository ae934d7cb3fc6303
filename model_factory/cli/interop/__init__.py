"""Verbs of the exchange with other programs: `lm_eval.py` calls lm-evaluation-harness.

This package imports `model_factory.interop` and what the command line imports; nothing imports it but by a verb's name.
"""
