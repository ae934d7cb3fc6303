"""Token rows: encode, pack, prepare, stream, load and collate them.

This package imports tokenizers and the settings of rows; reading the file formats of corpora is done elsewhere.
"""
