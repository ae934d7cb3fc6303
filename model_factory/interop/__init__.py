"""Exchange with other programs: `import_run` makes a run folder of a published checkpoint, `export` the reverse.

`hf` has our models as classes of transformers, `lm_eval` as models of lm-evaluation-harness, and `serving/` answers clients.
This package imports `model_factory.evaluation` and everything below it; only the command line imports it.
"""
