"""Latent diffusion of text: a variational autoencoder with a latent vector, and a diffusion model of latents.

    connectors       the fifteen published encoders and decoders, presets of the parts below
    encoder          backbone, pooler (pooling), linear layer to mean and log-variance
    decoder          reader (hugging_face_reader, performer_reader) with an injected latent (injection), and its loss
    vae, ddpm, joint the published classes VAE, DDPM and VAE_DDPM; abstract has their interfaces
    networks         denoisers of latents
    types, parts     the section `model_type: latent_diffusion` of a file, and its built-in parts (part_types, registry)
    model            the module that such a section builds

Names exported here are imported at their first use, so that checking a file imports no torch.
"""

# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.latent.abstract import DDPM_Abs, DDPM_abs, VAE_Abs, VAE_abs, VAE_DDPM_Abs, VAE_DDPM_abs
    from model.latent.connectors.published import (
        MODEL_CLASS,
        AlbertForLatentConnector,
        BertForLatentConnector,
        BertForLatentConnectorAVG,
        BertForLatentConnectorNew,
        DebertaForLatentConnector,
        DebertaForLatentConnectorNew,
        GPT2ForLatentConnector,
        GPT2ForLatentConnectorNew,
        GPT2ForLatentConnectorNew2,
        GPT2ModelForVAE,
        GPT2ModelForVAENew,
        GPT2ModelForVAENew2,
        RobertaForLatentConnector,
        RobertaForLatentConnectorNew,
        T5EncoderForLatentConnector,
    )
    from model.latent.ddpm import DDPM, ddpm_schedule
    from model.latent.decoder import LatentDecoder
    from model.latent.encoder import LatentEncoder
    from model.latent.joint import VAE_DDPM
    from model.latent.model import LatentDiffusionModel
    from model.latent.networks import LinearModel, MLPSkipNet, PerformerNet, ResidualLinear, TransformerNet
    from model.latent.vae import VAE

_MODULES = {
    "abstract": ("DDPM_Abs", "DDPM_abs", "VAE_Abs", "VAE_DDPM_Abs", "VAE_DDPM_abs", "VAE_abs"),
    "connectors.published": (
        "MODEL_CLASS",
        "AlbertForLatentConnector",
        "BertForLatentConnector",
        "BertForLatentConnectorAVG",
        "BertForLatentConnectorNew",
        "DebertaForLatentConnector",
        "DebertaForLatentConnectorNew",
        "GPT2ForLatentConnector",
        "GPT2ForLatentConnectorNew",
        "GPT2ForLatentConnectorNew2",
        "GPT2ModelForVAE",
        "GPT2ModelForVAENew",
        "GPT2ModelForVAENew2",
        "RobertaForLatentConnector",
        "RobertaForLatentConnectorNew",
        "T5EncoderForLatentConnector",
    ),
    "ddpm": ("DDPM", "ddpm_schedule"),
    "decoder": ("LatentDecoder",),
    "encoder": ("LatentEncoder",),
    "joint": ("VAE_DDPM",),
    "model": ("LatentDiffusionModel",),
    "networks": ("LinearModel", "MLPSkipNet", "PerformerNet", "ResidualLinear", "TransformerNet"),
    "vae": ("VAE",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
