"""The command line: one module per verb, shared options, and the printing of results.

Modules here import everything below, lazily; nothing imports this package but the verbs of a checkout.
"""
