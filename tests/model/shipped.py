"""Tiny models of every shipped type and backbone, with one loss, for tests of precision, checkpointing and sharding."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.model_factory import create_model
from model.parse_model_args import parse_model_config
from model_factory.yaml_config.dump import dump

VOCAB, ROWS, LENGTH = 20, 16, 32
SIZES: dict[str, Any] = {"d_model": 32, "num_layers": 2, "num_heads": 2, "device": "cpu"}
BERT: dict[str, Any] = {"type": "bert", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "device": "cpu"}
PART: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_length": 33, "vocab_size": VOCAB}
STACK: dict[str, Any] = {"d_model": 32, "num_layers": 2, "num_heads": 2, "vocab_size": VOCAB}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
MDLM: dict[str, Any] = {
    "model_type": "diffusion",
    "vocab_size": VOCAB,
    "process": {"type": "absorbing"},
    "schedule": {"type": "loglinear"},
    "objective": {"type": "mdlm"},
}
HUGGING_FACE: dict[str, Any] = {"type": "hugging_face", "architecture": LLAMA, "device": "cpu"}
SOURCE: dict[str, Any] = {"encoder": {"type": "performer", "d_model": 32, "num_layers": 2, "num_heads": 2}}


def sections(dropout: float) -> dict[str, dict[str, Any]]:
    """Return the model section of each, by a name for the test; `dropout` is that of every layer that has one."""
    side = {**SIZES, "vocab_size": VOCAB, "dropout": dropout}
    found = {
        **{f"encoder {kind}": _encoder(side, kind) for kind in ("softmax", "linear", "causal_linear")},
        **{f"decoder {kind}": _decoder(side, kind) for kind in ("softmax", "causal_linear")},
        "encoder_decoder softmax": {"model_type": "encoder_decoder", "encoder": side, "decoder": side},
        "encoder_decoder linear": {
            "model_type": "encoder_decoder",
            "encoder": {**side, "attention_type": "linear"},
            "decoder": {**side, "attention_type": "causal_linear", "tie_embeddings": False},
        },
        "encoder scalenorm": {"model_type": "encoder", "encoder": {**side, "use_scalenorm": True, "qk_norm": True}},
        "encoder rezero": {"model_type": "encoder", "encoder": {**side, "use_rezero": True}},
    }
    for time in (False, True):
        mdlm = {**MDLM, "time_conditioning": time}
        name = "with time" if time else "without time"
        found[f"ddit {name}"] = {**mdlm, "backbone": {"type": "ddit", **SIZES, "dropout": dropout}}
        for kind in ("softmax", "linear"):
            performer = {"type": "performer", **SIZES, "dropout": dropout, "attention_type": kind}
            found[f"performer {kind} {name}"] = {**mdlm, "backbone": performer}
        for place in ("output", "input", "adaln"):
            bert = {**BERT, "dropout": dropout, "time_injection": place}
            found[f"bert {place} {name}"] = {**mdlm, "backbone": bert}
        found[f"hugging_face {name}"] = {**mdlm, "backbone": HUGGING_FACE}
    return found


def latent_sections() -> dict[str, dict[str, Any]]:
    """Return sections of latent diffusion models: both kinds of parts, and each denoiser."""
    stack = {"type": "performer", **STACK, "dropout": 0.0}
    hugging_face = {**PART, "dropout": 0.0}
    parts = {
        "performer": {"encoder": stack, "decoder": stack},
        "bert and gpt2": {
            "encoder": {"type": "BertForLatentConnector", **hugging_face},
            "decoder": {"type": "GPT2ForLatentConnector", **hugging_face},
        },
    }
    denoisers: dict[str, dict[str, Any]] = {
        "mlp": {"type": "mlp", "width": 32, "num_layers": 3},
        "linear": {"type": "linear"},
        "residual": {"type": "residual"},
        "transformer": {"type": "transformer", "d_model": 16, "num_layers": 2, "num_heads": 2},
        "performer": {"type": "performer", "d_model": 16, "num_layers": 2, "num_heads": 2},
    }
    whole = {"model_type": "latent_diffusion", "latent": {"size": 16}, "device": "cpu"}
    return {
        **{f"latent {name}": {**whole, **parts["performer"], "denoiser": part} for name, part in denoisers.items()},
        "latent bert and gpt2": {**whole, **parts["bert and gpt2"], "denoiser": denoisers["mlp"]},
    }


def build(section: dict[str, Any], folder: Path) -> nn.Module:
    """Build a model in training mode; weights that begin at zero, which hide the layers before them, are random."""
    path = folder / "model.yml"
    path.write_text(dump({"model": section}))
    torch.manual_seed(0)
    model = create_model(parse_model_config(path))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return model.train()


def tokens() -> Tensor:
    """Return rows of tokens, int64 [ROWS, LENGTH]."""
    return torch.randint(1, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def loss_of(model: nn.Module, section: dict[str, Any], rows: slice = slice(None), **more: Any) -> Tensor:
    """Return the mean loss of some of the rows, a scalar, with the noise that they have in the whole batch."""
    ids, numbers = tokens()[rows], torch.arange(ROWS)[rows]
    if section["model_type"] in ("diffusion", "latent_diffusion"):
        out = model(ids, rows=numbers, batch_size=ROWS, seed=1, **more)
        loss: Tensor = out.loss
        return loss
    inputs = (ids, ids) if section["model_type"] == "encoder_decoder" else (ids,)
    return nn.functional.cross_entropy(model(*inputs).float().flatten(0, 1), ids.flatten())


def gradients(model: nn.Module) -> Tensor:
    """Return all gradients of a model as one float64 vector; those of unused weights are zero."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    return torch.cat([part.double().flatten() for part in parts])


def _encoder(side: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"model_type": "encoder", "encoder": {**side, "attention_type": kind}}


def _decoder(side: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"model_type": "decoder", "decoder": {**side, "attention_type": kind}}
