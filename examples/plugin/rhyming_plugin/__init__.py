"""Example of a package that adds a backbone and a data source to model-factory."""
