"""Metrics: bounds, likelihoods, translation, molecules, texts, judges and confidence intervals.

The modules import a loaded run and training; no sampler is chosen here.
"""
