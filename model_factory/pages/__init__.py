"""HTML pages of a model's summary and a run's evaluation, each one self-contained file.

The content is computed in `experiment/`, `evaluation/` and `training/`; this package only renders it. Only the commands
that write a page import it.
"""
