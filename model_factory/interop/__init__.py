"""Exchange with other programs: `import_run` makes a run folder of a published checkpoint.

This package imports `model_factory.evaluation` and everything below it; only the command line imports it.
"""
