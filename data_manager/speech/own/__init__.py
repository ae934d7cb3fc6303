"""Speech in the user's files, the sources `cuts`, `kaldi`, `audio_table` and `rttm`: config types, readers, preparation.

lhotse is imported inside functions, so checking a file does not need it.
"""
