"""Pages to look at: a model's summary and a run's evaluation, each one HTML file that needs nothing beside it.

What is shown is computed in `experiment/`, `evaluation/` and `training/`; here it is only laid out. No other room imports
this one but the commands that write a page.
"""
