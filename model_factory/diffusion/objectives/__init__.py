"""Training objectives of discrete diffusion: bounds of the NLL, and the parameterisation of a network's output.

Importing this package imports nothing; `built_in` registers the objectives that a file can name.
"""
