"""Side-by-side measurements against the packages that users could pick instead; results are in RESULTS.md.

A script a claim, which writes its own section with `--write`. Imports anything; no other room imports it, tests apart.
"""
