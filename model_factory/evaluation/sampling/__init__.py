"""Sampling from a run: prompts, holes, draws and rejection sampling.

The modules import a loaded run; they import no metric.
"""
