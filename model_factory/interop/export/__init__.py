"""Export of a run to folders and files of other programs: Hugging Face, torch.export, ONNX, and the model card.

This package imports `model_factory.interop.hf`, `model_factory.evaluation` and everything below them; only the command
line imports it.
"""
