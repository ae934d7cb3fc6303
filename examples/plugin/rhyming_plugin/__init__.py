"""Example of a package with one custom entry of each kind; each module registers one, and `all` imports every module."""
