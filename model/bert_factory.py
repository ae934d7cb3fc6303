"""Alias module of `model.bert_diffusion_model`, for code that imports the factory function from here."""

from model.bert_diffusion_model import MOLECULES_TOKENIZER, BertDiffusionModel, build_medium_bert_diffusion_model

__all__ = ["MOLECULES_TOKENIZER", "BertDiffusionModel", "build_medium_bert_diffusion_model"]
