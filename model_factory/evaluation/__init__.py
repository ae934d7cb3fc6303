"""Sampling from trained runs and evaluating them: samples, metrics, confidence intervals, reports.

Reads run folders and may import every other package but the engine; only the commands and `pages/` import it. Nothing
here trains or changes a run.
"""
