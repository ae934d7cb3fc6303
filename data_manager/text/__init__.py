"""Text corpora: files, tables, Arrow data sets, the hub, mixtures, and their splits.

The wing gives documents per split; it imports no tokenizer and no row code.
"""
