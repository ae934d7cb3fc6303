"""Speech corpora: lhotse recipes, downloads, manifests, cuts, features and loaders.

lhotse and torch are imported inside functions, so checking a file needs neither.
"""
