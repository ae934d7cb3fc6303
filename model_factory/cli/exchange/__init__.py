"""Verbs that exchange models with other programs: `export`, `push`, `pull`, and `lm_eval` for lm-evaluation-harness.

They import `model_factory.interop` and everything below it; `model_factory.cli.main` imports them by name.
"""
