"""Text corpora: files, tables, Arrow data sets, the hub, mixtures, and their splits.

This package returns the documents of each split; it imports no tokenizer and no row code.
"""
