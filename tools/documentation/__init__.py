"""Generate the parts of `docs/` that follow from the code: key reference and diagrams. Run `python -m tools.documentation`.

Hand-written text is in `docs/`; this package only extracts facts from the code. No other package imports it.
"""
