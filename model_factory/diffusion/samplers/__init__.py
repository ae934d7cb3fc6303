"""Samplers of discrete diffusion, from noise back to clean tokens.

Importing this package imports nothing; `built_in` registers the samplers that a file can name.
"""
