"""Tools of this repository: fuzzing, mutation testing and the documentation generator.

They are not installed, and nothing that is installed imports them.
"""
