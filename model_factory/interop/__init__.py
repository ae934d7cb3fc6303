"""Exchange with other programs.

`import_run` makes a run folder of a published checkpoint, `export` the reverse, and `hf` has our models as classes of
transformers; `lm_eval` is for the harness, `serving/` answers clients.

This package imports `model_factory.evaluation` and everything below it;
only the command line imports it.
"""
