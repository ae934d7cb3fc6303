"""Token rows: encode, pack, prepare, stream, load and collate them.

The wing imports tokenizers and the settings of rows; it knows no file format of a corpus.
"""
