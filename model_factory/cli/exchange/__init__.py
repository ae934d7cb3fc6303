"""Verbs that exchange models with other programs: `export`, `push` and `pull`.

They import `model_factory.interop` and everything below it; `model_factory.cli.main` imports them by name.
"""
