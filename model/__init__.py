"""Networks and the types that describe them. Importing this package imports no torch."""
