"""An example of a package that adds a backbone and a data set to model-factory."""
