"""Tasks, one small class a file: from a model and a batch to a loss."""
