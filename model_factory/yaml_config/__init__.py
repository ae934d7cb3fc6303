"""Parse and check a config file: YAML 1.2 scalars, `extends`, `--set`, and errors with line and column.

This package imports yaml and pydantic only: no model, no data set and no torch.
"""
