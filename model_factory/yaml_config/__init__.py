"""Text of a configuration file to checked data with places: YAML 1.2 scalars, `extends`, `--set`, errors.

Knows no model, no data set and no torch; imports yaml and pydantic only.
"""
