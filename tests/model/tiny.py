"""Tiny models and shared helpers for the tests of the networks."""

import torch

from model.transformer.performer import EncoderDecoderTransformer, PerformerDecoder, PerformerEncoder
from model.types import PerformerParams

VOCAB = 11


def params(**changes):
    base = {"d_model": 16, "num_layers": 2, "num_heads": 2, "device": "cpu", "dropout": 0.0, "d_ff": 2}
    return PerformerParams(**{**base, **changes})


def norm_of(name):
    return {"layernorm": {}, "scalenorm": {"use_scalenorm": True}, "rezero": {"use_rezero": True}}[name]


def encoder(**changes):
    return sharpened(PerformerEncoder(params(**changes)), 1.0)


def decoder(**changes):
    return sharpened(PerformerDecoder(params(**changes)), 1.0)


def seq2seq(**changes):
    side = {**changes, "attention_type": changes.get("attention_type", "softmax")}
    return sharpened(EncoderDecoderTransformer(params(**{**side, **encoder_side(side)}), params(**side)), 1.0)


def encoder_side(side):
    return {"attention_type": "linear"} if side["attention_type"] == "causal_linear" else {}


def sharpened(model, factor):
    """Set `model` to evaluation mode, scale its queries and keys, and set ReZero gains to nonzero values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "to_q" in name or "to_k" in name:
                parameter.mul_(factor)
            if name.endswith("rezero"):
                parameter.fill_(1.0)
    return model.eval()


def gap(given, wanted):
    """Return the relative norm of the difference."""
    given, wanted = given.detach(), wanted.detach()
    return float((given.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))


def lengths_mask(lengths, size):
    return torch.arange(size)[None, :] < torch.tensor(lengths)[:, None]


def refuse_to_retry(seconds: float) -> None:
    """Stand in for `time.sleep`, which the hub's libraries call before they try a dead network again."""
    raise AssertionError(f"a retry after {seconds} s")
