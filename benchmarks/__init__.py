"""Benchmarks against alternative packages; results are in RESULTS.md.

Each script measures one claim, and writes its section of RESULTS.md with `--write`. Only tests import this package.
"""
